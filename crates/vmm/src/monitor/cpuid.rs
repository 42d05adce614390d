//! What a virtual processor says that it is: KVM's list, cut and completed (Intel SDM volume 2, CPUID; AMD APM volume 3,
//! appendix E).

use kvm_bindings::{CpuId, kvm_cpuid_entry2};

/// One processor's answers.
#[derive(Debug, Clone, Copy)]
pub struct Identity {
    /// The processor's number and its APIC's identifier.
    pub index: u32,
    /// How many there are, cores of one socket.
    pub count: u32,
    /// Whether SVM or VMX is kept.
    pub virtualization: bool,
    /// Whether the APIC's timer takes a TSC deadline.
    pub deadline: bool,
}

const HYPERVISOR: u32 = 1 << 31;
const TSC_DEADLINE: u32 = 1 << 24;
const VMX: u32 = 1 << 5;
const HTT: u32 = 1 << 28;
const ARAT: u32 = 1 << 2;
const SVM: u32 = 1 << 2;
const CMP_LEGACY: u32 = 1 << 1;

/// Turns what KVM can do into what this processor does.
pub fn fit(list: &mut CpuId, who: Identity) {
    // Bits of an APIC identifier that name the core.
    let bits = who.count.next_power_of_two().trailing_zeros();
    let amd = is_amd(list);
    for entry in list.as_mut_slice() {
        match (entry.function, entry.index) {
            (0x1, _) => {
                entry.ecx |= HYPERVISOR;
                // KVM's list leaves it out: it is for whoever has KVM's APIC to add.
                match who.deadline {
                    true => entry.ecx |= TSC_DEADLINE,
                    false => entry.ecx &= !TSC_DEADLINE,
                }
                if !who.virtualization {
                    entry.ecx &= !VMX;
                }
                entry.ebx = entry.ebx & 0xffff | who.index << 24 | who.count.min(255) << 16;
                match who.count {
                    1 => entry.edx &= !HTT,
                    _ => entry.edx |= HTT,
                }
            }
            // Deterministic caches: none is shared, all cores are in one package.
            (0x4, _) if entry.eax & 0x1f != 0 => {
                entry.eax = entry.eax & 0x3fff | ((1 << bits) - 1) << 26;
            }
            // The local APIC's timer runs in every state: KVM's does.
            (0x6, _) => (entry.eax, entry.ebx, entry.ecx) = (ARAT, 0, 0),
            // No performance counters.
            (0xa, _) => clear(entry),
            (0xb | 0x1f, index) => {
                // One thread a core, then the cores.
                let (shift, number, kind) = match index {
                    0 => (0, 1, 1),
                    1 => (bits, who.count, 2),
                    _ => (0, 0, 0),
                };
                entry.eax = shift;
                entry.ebx = number;
                entry.ecx = index | kind << 8;
                entry.edx = who.index;
            }
            (0x8000_0001, _) => {
                if !who.virtualization {
                    entry.ecx &= !SVM;
                }
                match who.count {
                    2.. if amd => entry.ecx |= CMP_LEGACY,
                    _ => entry.ecx &= !CMP_LEGACY,
                }
            }
            // Reserved on Intel's.
            (0x8000_0008, _) if amd => entry.ecx = bits << 12 | (who.count - 1),
            (0x8000_000a, _) if !who.virtualization => clear(entry),
            (0x8000_001d, _) => entry.eax &= 0x3fff,
            (0x8000_001e, _) => {
                (entry.eax, entry.ebx, entry.ecx) = (who.index, who.index, 0);
            }
            _ => {}
        }
    }
}

/// Whether the processor is AMD's, or Hygon's, which is the same: some leaves mean something on these only.
fn is_amd(list: &CpuId) -> bool {
    let first = |entry: &kvm_cpuid_entry2| entry.function == 0;
    let vendor = list.as_slice().iter().find(|entry| first(entry));
    vendor.is_some_and(|leaf| [*b"Auth", *b"Hygo"].contains(&leaf.ebx.to_le_bytes()))
}

fn clear(entry: &mut kvm_cpuid_entry2) {
    (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fitted(function: u32, index: u32, who: Identity) -> kvm_cpuid_entry2 {
        fitted_of(*b"Auth", function, index, who)
    }

    fn fitted_of(vendor: [u8; 4], function: u32, index: u32, who: Identity) -> kvm_cpuid_entry2 {
        let entry = kvm_cpuid_entry2 {
            function,
            index,
            eax: 0xffff_ffff,
            ebx: 0xffff_ffff,
            ecx: 0xffff_ffff,
            edx: 0xffff_ffff,
            ..Default::default()
        };
        let first = kvm_cpuid_entry2 {
            ebx: u32::from_le_bytes(vendor),
            ..Default::default()
        };
        let mut list = CpuId::from_entries(&[first, entry]).unwrap();
        fit(&mut list, who);
        list.as_slice()[1]
    }

    const ONE_OF_THREE: Identity = Identity {
        index: 1,
        count: 3,
        virtualization: false,
        deadline: false,
    };

    #[test]
    fn virtualization_is_taken_away_unless_wanted() {
        let wanted = Identity {
            virtualization: true,
            ..ONE_OF_THREE
        };
        assert_eq!(fitted(1, 0, ONE_OF_THREE).ecx & VMX, 0);
        assert_eq!(fitted(0x8000_0001, 0, ONE_OF_THREE).ecx & SVM, 0);
        assert_eq!(fitted(0x8000_000a, 0, ONE_OF_THREE).eax, 0);
        assert_eq!(fitted(1, 0, ONE_OF_THREE).ecx & TSC_DEADLINE, 0);
        assert_ne!(fitted(1, 0, wanted).ecx & VMX, 0);
        assert_ne!(fitted(0x8000_0001, 0, wanted).ecx & SVM, 0);
    }

    #[test]
    fn topology() {
        let leaf = fitted(1, 0, ONE_OF_THREE);
        assert_eq!((leaf.ebx >> 24, leaf.ebx >> 16 & 0xff), (1, 3));
        let threads = fitted(0xb, 0, ONE_OF_THREE);
        assert_eq!((threads.eax, threads.ebx, threads.edx), (0, 1, 1));
        let cores = fitted(0xb, 1, ONE_OF_THREE);
        assert_eq!((cores.eax, cores.ebx, cores.ecx), (2, 3, 0x201));
        assert_eq!(fitted(0xb, 2, ONE_OF_THREE).ebx, 0);
    }

    /// What AMD's manual defines and Intel's reserves.
    #[test]
    fn amds_topology_is_amds() {
        assert_eq!(fitted(0x8000_0008, 0, ONE_OF_THREE).ecx, 0x2002);
        assert_ne!(fitted(0x8000_0001, 0, ONE_OF_THREE).ecx & CMP_LEGACY, 0);
        let intel = |function| fitted_of(*b"Genu", function, 0, ONE_OF_THREE).ecx;
        assert_eq!(intel(0x8000_0008), u32::MAX);
        assert_eq!(intel(0x8000_0001) & CMP_LEGACY, 0);
    }
}
