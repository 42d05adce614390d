//! What the host's processor says of itself.

/// Whether this host's processor is QEMU's translator: in the rig, that is. There KVM offers the TSC deadline timer, and
/// it does not fire (QEMU 7.2; its own `-accel kvm` guests wait for ever as well). The APIC's other modes do.
#[cfg(target_arch = "x86_64")]
pub fn is_translated() -> bool {
    use std::arch::x86_64::__cpuid;
    const HYPERVISOR: u32 = 1 << 31;
    const HYPERVISOR_LEAVES: u32 = 0x4000_0000;
    if __cpuid(1).ecx & HYPERVISOR == 0 {
        return false;
    }
    let leaf = __cpuid(HYPERVISOR_LEAVES);
    let name = [leaf.ebx, leaf.ecx, leaf.edx]
        .map(u32::to_le_bytes)
        .concat();
    name == b"TCGTCGTCGTCG"
}

/// Nobody has looked at others.
#[cfg(not(target_arch = "x86_64"))]
pub fn is_translated() -> bool {
    false
}
