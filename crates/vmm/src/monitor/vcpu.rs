//! A virtual processor: its first state, and the thread that runs it.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use kvm_bindings::{Msrs, kvm_fpu, kvm_msr_entry, kvm_segment};
use kvm_ioctls::{VcpuExit, VcpuFd};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::bus::{Bus, Ended};
use super::memory::{GDT, PAGE_TABLES, ZERO_PAGE};
use crate::vsock::Memory;

/// `_IOW(KVMIO, 0x8b, struct kvm_signal_mask)`, from `linux/kvm.h`.
const KVM_SET_SIGNAL_MASK: libc::c_ulong = 0x4004_ae8b;

/// `struct kvm_signal_mask` with the kernel's 64-bit set.
#[repr(C)]
struct SignalMask {
    len: u32,
    sigset: [u8; 8],
}

/// `__BOOT_CS` and `__BOOT_DS` of the boot protocol.
const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;

/// Writes what the boot processor's first state refers to: descriptor table, and page tables that map the first 1 GiB to
/// itself by pages of 2 MiB.
pub fn prepare_memory(mem: &Memory) -> io::Result<()> {
    const PRESENT_WRITABLE: u64 = 0x3;
    const LARGE: u64 = 0x80;
    let put = |at: u64, bytes: &[u8]| {
        mem.write_slice(bytes, GuestAddress(at))
            .map_err(io::Error::other)
    };
    // Flat 64-bit code, flat data: Intel SDM volume 3, 3.4.5.
    let descriptors = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffffu64];
    put(GDT, &descriptors.map(u64::to_le_bytes).concat())?;
    let (table, directory) = (PAGE_TABLES + 0x1000, PAGE_TABLES + 0x2000);
    put(PAGE_TABLES, &(table | PRESENT_WRITABLE).to_le_bytes())?;
    put(table, &(directory | PRESENT_WRITABLE).to_le_bytes())?;
    let pages: Vec<u8> = (0..512u64)
        .flat_map(|page| (page << 21 | LARGE | PRESENT_WRITABLE).to_le_bytes())
        .collect();
    put(directory, &pages)
}

/// Puts the boot processor at the kernel's 64-bit entry.
pub fn boot_state(vcpu: &VcpuFd, entry: GuestAddress) -> Result<(), kvm_ioctls::Error> {
    const CR0_PE_ET_PG: u64 = 0x8000_0011;
    const CR4_PAE: u64 = 0x20;
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
    sregs.gdt.limit = 4 * 8 - 1;
    sregs.idt.base = 0;
    sregs.idt.limit = 0;
    sregs.cr3 = PAGE_TABLES;
    sregs.cr0 = CR0_PE_ET_PG;
    sregs.cr4 = CR4_PAE;
    sregs.efer = EFER_LME_LMA;
    vcpu.set_sregs(&sregs)?;
    let mut regs = vcpu.get_regs()?;
    regs.rflags = 2;
    regs.rip = entry.0;
    regs.rsi = ZERO_PAGE;
    vcpu.set_regs(&regs)
}

/// What firmware leaves on every processor: floating point as after FNINIT, memory cached by default, fast string
/// instructions, the interrupt pins wired through.
pub fn common_state(vcpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    vcpu.set_fpu(&kvm_fpu {
        fcw: 0x37f,
        mxcsr: 0x1f80,
        ..Default::default()
    })?;
    const MTRR_DEF_TYPE: u32 = 0x2ff;
    const ENABLED_WRITE_BACK: u64 = 1 << 11 | 6;
    // Without its first bit Linux takes an Intel processor's string instructions for slow. The others are KVM's own: no branch
    // trace store, no event sampling.
    const IA32_MISC_ENABLE: u32 = 0x1a0;
    const FAST_STRINGS: u64 = 1 | 1 << 11 | 1 << 12;
    let entries = [
        (MTRR_DEF_TYPE, ENABLED_WRITE_BACK),
        (IA32_MISC_ENABLE, FAST_STRINGS),
    ];
    let entries = entries.map(|(index, data)| kvm_msr_entry {
        index,
        data,
        ..Default::default()
    });
    if let Ok(msrs) = Msrs::from_entries(&entries) {
        vcpu.set_msrs(&msrs)?;
    }
    const LVT_LINT0: usize = 0x350;
    const LVT_LINT1: usize = 0x360;
    const EXTINT: u32 = 0x700;
    const NMI: u32 = 0x400;
    let mut lapic = vcpu.get_lapic()?;
    for (register, mode) in [(LVT_LINT0, EXTINT), (LVT_LINT1, NMI)] {
        for (to, from) in lapic.regs[register..].iter_mut().zip(mode.to_le_bytes()) {
            *to = from as libc::c_char;
        }
    }
    vcpu.set_lapic(&lapic)
}

/// Stops and starts all processors of a machine.
///
/// A processor that runs is made to look by a signal that is blocked everywhere but inside `KVM_RUN`: one that is sent a
/// moment too early stays pending and ends the next `KVM_RUN` at once.
pub struct Gate {
    state: Mutex<GateState>,
    opened: Condvar,
    threads: Vec<AtomicI32>,
    /// Readable when all processors stand still.
    pub closed: EventFd,
}

#[derive(Default)]
struct GateState {
    shut: bool,
    waiting: usize,
}

impl Gate {
    /// An open gate for so many processors.
    pub fn new(count: u32) -> io::Result<Gate> {
        Ok(Gate {
            state: Mutex::default(),
            opened: Condvar::new(),
            threads: (0..count).map(|_| AtomicI32::new(0)).collect(),
            closed: EventFd::new(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK)?,
        })
    }

    /// Makes this thread that processor's: the gate's signal is blocked in it.
    fn enter(&self, index: usize) -> io::Result<()> {
        let set = signal_set();
        // SAFETY: the set is live; the old mask is not asked for.
        let refused = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) };
        if refused != 0 {
            return Err(io::Error::from_raw_os_error(refused));
        }
        // SAFETY: gettid has no preconditions.
        self.threads[index].store(unsafe { libc::gettid() }, Ordering::SeqCst);
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, GateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops the processors. [`Gate::closed`] tells when all have.
    pub fn shut(&self) {
        let mut state = self.lock();
        state.shut = true;
        if state.waiting == self.threads.len() {
            let _ = self.closed.write(1);
            return;
        }
        drop(state);
        for thread in &self.threads {
            let thread = thread.load(Ordering::SeqCst);
            // SAFETY: takes numbers only. The thread is one of ours and blocks the signal.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, signal()) };
        }
    }

    /// Lets the processors run again.
    pub fn open(&self) {
        self.lock().shut = false;
        self.opened.notify_all();
    }

    /// A processor looks at the gate, and waits while it is shut.
    fn pass(&self) {
        let mut state = self.lock();
        if !state.shut {
            return;
        }
        state.waiting += 1;
        if state.waiting == self.threads.len() {
            let _ = self.closed.write(1);
        }
        while state.shut {
            state = self
                .opened
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting -= 1;
    }
}

/// The signal that makes a processor look at the gate.
fn signal() -> libc::c_int {
    libc::SIGRTMIN()
}

/// The set that holds only [`signal`].
fn signal_set() -> libc::sigset_t {
    let mut set = std::mem::MaybeUninit::uninit();
    // SAFETY: the set lives on this stack and is written whole before it is read; the number is a valid signal.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), signal());
        set.assume_init()
    }
}

/// Makes this thread the one that runs `vcpu`: only in `KVM_RUN` does the gate's signal reach it.
pub fn enter_thread(vcpu: &VcpuFd, index: usize, gate: &Gate) -> io::Result<()> {
    gate.enter(index)?;
    // Nothing but the gate's signal ends a run of the guest. Those that ask to end are blocked in this process, and one of them that
    // is pending and got through here would end each run before its first instruction.
    let all_but_ours = !(1_u64 << (signal() - 1));
    let mask = SignalMask {
        len: 8,
        sigset: all_but_ours.to_ne_bytes(),
    };
    // SAFETY: the kernel reads a `kvm_signal_mask` of 4 + 8 bytes.
    if unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_SET_SIGNAL_MASK, &raw const mask) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Runs the processor until the machine ends.
pub fn run(vcpu: &mut VcpuFd, bus: &Bus, gate: &Arc<Gate>) {
    let set = signal_set();
    loop {
        let broken = match vcpu.run() {
            Ok(VcpuExit::IoOut(port, bytes)) => {
                if bus.port_out(port, bytes) {
                    return;
                }
                continue;
            }
            Ok(VcpuExit::IoIn(port, bytes)) => {
                bus.port_in(port, bytes);
                continue;
            }
            Ok(VcpuExit::MmioRead(address, bytes)) => {
                bus.memory_read(address, bytes);
                continue;
            }
            Ok(VcpuExit::MmioWrite(address, bytes)) => {
                bus.memory_write(address, bytes);
                continue;
            }
            Ok(VcpuExit::Intr) => continue,
            // A triple fault, by which old systems reset a PC.
            Ok(VcpuExit::Shutdown) => return bus.end.come(Ended::Reset),
            Ok(VcpuExit::InternalError) => "KVM can't run the guest's next instruction".to_owned(),
            Ok(VcpuExit::FailEntry(reason, _)) => {
                format!("the processor refused the guest's state ({reason:#x})")
            }
            Ok(exit) => format!("KVM ended the guest: {exit:?}"),
            Err(error) if error.errno() == libc::EINTR => {
                let none = libc::timespec {
                    tv_sec: 0,
                    tv_nsec: 0,
                };
                // SAFETY: the set and the time are live; what the signal says is not asked for.
                while unsafe { libc::sigtimedwait(&set, std::ptr::null_mut(), &none) } > 0 {}
                gate.pass();
                continue;
            }
            Err(error) if error.errno() == libc::EAGAIN => continue,
            Err(error) => format!("KVM_RUN: {}", io::Error::from(error)),
        };
        return bus.end.come(Ended::Broken(broken));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64};
    use std::time::Duration;

    use super::*;

    /// A guest that runs until the gate's signal comes, as `KVM_RUN` does.
    fn run_guest() {
        let limit = libc::timespec {
            tv_sec: 20,
            tv_nsec: 0,
        };
        let set = signal_set();
        // SAFETY: the set and the time are live; what the signal says is not asked for.
        let got = unsafe { libc::sigtimedwait(&set, std::ptr::null_mut(), &limit) };
        assert_eq!(
            got,
            signal(),
            "the gate does not reach a processor that runs"
        );
    }

    fn wait_closed(gate: &Gate) {
        let begin = std::time::Instant::now();
        while gate.closed.read().is_err() {
            assert!(begin.elapsed() < Duration::from_secs(20), "never closed");
            std::thread::yield_now();
        }
    }

    #[test]
    fn processors_stand_still_and_go_on() {
        let gate = Arc::new(Gate::new(3).unwrap());
        let (entered, turns) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let over = Arc::new(AtomicBool::new(false));
        let processor = |index| {
            let (gate, entered) = (gate.clone(), entered.clone());
            let (turns, over) = (turns.clone(), over.clone());
            std::thread::spawn(move || {
                gate.enter(index).unwrap();
                entered.fetch_add(1, Ordering::SeqCst);
                while !over.load(Ordering::SeqCst) {
                    run_guest();
                    gate.pass();
                    turns.fetch_add(1, Ordering::SeqCst);
                }
            })
        };
        let threads = [0, 1, 2].map(processor);
        while entered.load(Ordering::SeqCst) < 3 {
            std::thread::yield_now();
        }
        for round in 1..=3 {
            gate.shut();
            wait_closed(&gate);
            assert_eq!(gate.lock().waiting, 3);
            assert_eq!(turns.load(Ordering::SeqCst), 3 * (round - 1));
            // Again, by somebody else: it is told at once.
            gate.shut();
            wait_closed(&gate);
            if round == 3 {
                over.store(true, Ordering::SeqCst);
            }
            gate.open();
            while turns.load(Ordering::SeqCst) < 3 * round {
                std::thread::yield_now();
            }
            assert_eq!(gate.lock().waiting, 0);
        }
        for thread in threads {
            thread.join().unwrap();
        }
    }
}
