//! Does this host's KVM run a real guest? A throw-away VM tries the instructions that decide it.
//!
//! Some rented machines offer a `/dev/kvm` in software that makes VMs and processors but interprets the guest's code
//! and lacks `CMPXCHG16B`, `INT3` or `XRSTOR`: a stock Linux dies in it. The guest here is 64-bit code with paging, its
//! own page tables, GDT and IDT. It writes a number to a port after each instruction that worked, and halts.
//! The VM lives for some milliseconds, [`LIMIT`] at most. Runs on the caller's thread; no signal handler is touched.

use std::arch::global_asm;
use std::io;
use std::time::Duration;

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

mod deadline;

use deadline::Deadline;

/// The longest that the guest may run. It needs microseconds, in software some milliseconds.
pub const LIMIT: Duration = Duration::from_secs(1);

/// The steps, in the guest's order.
const STEPS: [&str; 3] = ["CMPXCHG16B", "INT3", "XRSTOR"];

/// Why KVM does not run a real guest.
#[derive(Debug, Error)]
pub enum KvmFault {
    /// The device can't be opened.
    #[error("open /dev/kvm")]
    Open(#[source] io::Error),
    /// A request failed that every KVM grants.
    #[error("{request} failed")]
    Request {
        /// KVM's name for it.
        request: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// An instruction does not work.
    #[error("a guest dies of the instruction {instruction} ({exit})")]
    Instruction {
        /// Which.
        instruction: &'static str,
        /// What KVM said.
        exit: String,
    },
    /// The guest ran for too long.
    #[error("a guest hangs in the instruction {instruction}")]
    Hang {
        /// Which.
        instruction: &'static str,
    },
}

const CODE: u64 = 0x1000;
const GDT: u64 = 0x2000;
const IDT: u64 = 0x3000;
const PML4: u64 = 0x4000;
const PDPT: u64 = 0x5000;
const PAGE_DIRECTORY: u64 = 0x6000;
const STACK_TOP: u64 = 0x8000;
const MEMORY: usize = 0x1_0000;
const CODE_SELECTOR: u16 = 0x08;
const DATA_SELECTOR: u16 = 0x10;
const PORT: u16 = 0x10;

// 0x8000 and 0x9000 are zeroed scratch memory. r9: whether the processor has XSAVE.
global_asm!(
    ".pushsection .rodata.gourd_kvm_probe, \"a\"",
    // The compiler may put those who refer to it into another object.
    ".globl gourd_kvm_probe_code, gourd_kvm_probe_int3, gourd_kvm_probe_end",
    ".hidden gourd_kvm_probe_code, gourd_kvm_probe_int3, gourd_kvm_probe_end",
    "gourd_kvm_probe_code:",
    "    mov esi, 0x8000",
    "    xor eax, eax",
    "    xor edx, edx",
    "    mov ebx, 0x1234",
    "    mov ecx, 0x5678",
    "    lock cmpxchg16b xmmword ptr [rsi]",
    "    jnz 2f",
    "    cmp qword ptr [rsi + 8], 0x5678",
    "    jne 2f",
    "    mov al, 1",
    "    out 0x10, al",
    "    int3",
    "    cmp r8d, 0x33",
    "    jne 2f",
    "    mov al, 2",
    "    out 0x10, al",
    "    test r9d, r9d",
    "    jz 3f",
    "    mov edi, 0x9000",
    "    xor ecx, ecx",
    "    xgetbv",
    "    xsave [rdi]",
    "    xrstor [rdi]",
    "3:",
    "    mov al, 3",
    "    out 0x10, al",
    "2:",
    "    hlt",
    "    jmp 2b",
    "gourd_kvm_probe_int3:",
    "    mov r8d, 0x33",
    "    iretq",
    "gourd_kvm_probe_end:",
    ".popsection",
);

unsafe extern "C" {
    #[link_name = "gourd_kvm_probe_code"]
    static CODE_START: u8;
    #[link_name = "gourd_kvm_probe_int3"]
    static CODE_INT3: u8;
    #[link_name = "gourd_kvm_probe_end"]
    static CODE_END: u8;
}

/// The guest's code, and where in it the breakpoint handler is.
fn code() -> (&'static [u8], u64) {
    let start = &raw const CODE_START;
    let int3 = (&raw const CODE_INT3).addr() - start.addr();
    let length = (&raw const CODE_END).addr() - start.addr();
    // SAFETY: the three symbols stand in this order in one read-only section, defined above.
    (
        unsafe { std::slice::from_raw_parts(start, length) },
        int3 as u64,
    )
}

/// Tries it. `Ok`: KVM runs a stock Linux.
pub fn run() -> Result<(), KvmFault> {
    let request = |request| {
        move |error: kvm_ioctls::Error| KvmFault::Request {
            request,
            source: error.into(),
        }
    };
    let kvm = Kvm::new().map_err(|error| KvmFault::Open(error.into()))?;
    let vm = kvm.create_vm().map_err(request("KVM_CREATE_VM"))?;
    // Intel's processors without "unrestricted guest" want three pages for it.
    let _ = vm.set_tss_address(0xfffb_d000);
    let memory = memory()?;
    let host = memory
        .get_host_address(GuestAddress(0))
        .map_err(|error| invalid("guest memory", error))?;
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: MEMORY as u64,
        userspace_addr: host.addr() as u64,
    };
    // SAFETY: the region is `memory`, which is dropped after the VM (declared later, dropped earlier is the processor;
    // the VM's descriptor is explicitly dropped before `memory` below).
    unsafe { vm.set_user_memory_region(region) }.map_err(request("KVM_SET_USER_MEMORY_REGION"))?;
    let mut vcpu = vm.create_vcpu(0).map_err(request("KVM_CREATE_VCPU"))?;
    let cpuid = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(request("KVM_GET_SUPPORTED_CPUID"))?;
    vcpu.set_cpuid2(&cpuid).map_err(request("KVM_SET_CPUID2"))?;
    let xsave = cpuid
        .as_slice()
        .iter()
        .any(|leaf| leaf.function == 1 && leaf.ecx & (1 << 26) != 0);
    registers(&vcpu, xsave).map_err(request("KVM_SET_SREGS"))?;
    let result = observe(&mut vcpu);
    drop(vcpu);
    drop(vm);
    drop(memory);
    result
}

fn invalid(
    request: &'static str,
    error: impl std::error::Error + Send + Sync + 'static,
) -> KvmFault {
    KvmFault::Request {
        request,
        source: io::Error::other(error),
    }
}

/// Page tables, descriptor tables and code.
fn memory() -> Result<GuestMemoryMmap<()>, KvmFault> {
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), MEMORY)])
        .map_err(|error| invalid("guest memory", error))?;
    let (code, int3) = code();
    let put = |at: u64, bytes: &[u8]| {
        memory
            .write_slice(bytes, GuestAddress(at))
            .map_err(|error| invalid("guest memory", error))
    };
    put(CODE, code)?;
    // Present and writable; the last one is a page of 2 MiB.
    put(PML4, &(PDPT | 0x3).to_le_bytes())?;
    put(PDPT, &(PAGE_DIRECTORY | 0x3).to_le_bytes())?;
    put(PAGE_DIRECTORY, &0x83u64.to_le_bytes())?;
    // Flat 64-bit code, flat data: Intel SDM volume 3, 3.4.5.
    put(
        GDT + u64::from(CODE_SELECTOR),
        &0x00af_9b00_0000_ffffu64.to_le_bytes(),
    )?;
    put(
        GDT + u64::from(DATA_SELECTOR),
        &0x00cf_9300_0000_ffffu64.to_le_bytes(),
    )?;
    // A 64-bit interrupt gate (SDM volume 3, 6.14.1) for vector 3; the handler lies below 64 KiB.
    let handler = CODE + int3;
    let gate = handler | u64::from(CODE_SELECTOR) << 16 | 0x8e00 << 32;
    put(IDT + 3 * 16, &gate.to_le_bytes())?;
    Ok(memory)
}

/// The state in which a 64-bit kernel runs.
fn registers(vcpu: &VcpuFd, xsave: bool) -> Result<(), kvm_ioctls::Error> {
    const CR0_PE_MP_ET_NE_WP_PG: u64 = 0x8001_0033;
    const CR4_PAE_OSFXSR_OSXMMEXCPT: u64 = 0x620;
    const CR4_OSXSAVE: u64 = 1 << 18;
    const EFER_LME_LMA: u64 = 0x500;
    let segment = |selector: u16, type_: u8, long: bool| kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        dpl: 0,
        db: u8::from(!long),
        s: 1,
        l: u8::from(long),
        g: 1,
        ..Default::default()
    };
    let mut sregs = vcpu.get_sregs()?;
    let data = segment(DATA_SELECTOR, 3, false);
    sregs.cs = segment(CODE_SELECTOR, 11, true);
    (sregs.ds, sregs.es, sregs.ss) = (data, data, data);
    (sregs.fs, sregs.gs) = (data, data);
    sregs.gdt.base = GDT;
    sregs.gdt.limit = 0x17;
    sregs.idt.base = IDT;
    sregs.idt.limit = 4 * 16 - 1;
    sregs.cr3 = PML4;
    sregs.cr0 = CR0_PE_MP_ET_NE_WP_PG;
    sregs.cr4 = CR4_PAE_OSFXSR_OSXMMEXCPT | if xsave { CR4_OSXSAVE } else { 0 };
    sregs.efer = EFER_LME_LMA;
    vcpu.set_sregs(&sregs)?;
    let mut regs = vcpu.get_regs()?;
    regs.rip = CODE;
    regs.rsp = STACK_TOP;
    regs.rflags = 2;
    regs.r9 = u64::from(xsave);
    vcpu.set_regs(&regs)
}

/// Runs the guest to its end and says how far it came.
fn observe(vcpu: &mut VcpuFd) -> Result<(), KvmFault> {
    let _deadline = Deadline::start(vcpu, LIMIT).map_err(|source| KvmFault::Request {
        request: "a time limit",
        source,
    })?;
    let mut done = 0;
    let instruction = |done: usize| STEPS[done.min(STEPS.len() - 1)];
    loop {
        let exit = match vcpu.run() {
            Ok(VcpuExit::IoOut(PORT, &[step])) if usize::from(step) == done + 1 => {
                done += 1;
                continue;
            }
            Ok(VcpuExit::Hlt) if done == STEPS.len() => return Ok(()),
            Ok(exit) => format!("{exit:?}"),
            Err(error) if error.errno() == libc::EINTR => {
                let instruction = instruction(done);
                return Err(KvmFault::Hang { instruction });
            }
            Err(error) => io::Error::from(error).to_string(),
        };
        let instruction = instruction(done);
        return Err(KvmFault::Instruction { instruction, exit });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The oracle is the processor that runs this test: the code's bytes are what the assembler made of it.
    #[test]
    fn the_code_is_whole() {
        let (code, int3) = code();
        assert!(code.len() < 0x1000);
        // mov r8d, 0x33; iretq
        let handler = [0x41, 0xb8, 0x33, 0, 0, 0, 0x48, 0xcf];
        assert_eq!(code[int3 as usize..], handler);
    }

    /// Whatever this host has, the answer comes, and in time.
    #[test]
    fn an_answer_comes() {
        let start = std::time::Instant::now();
        let answer = run();
        assert!(start.elapsed() < LIMIT * 5, "{answer:?}");
    }
}
