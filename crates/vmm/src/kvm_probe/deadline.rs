//! A limit on how long a virtual processor runs, without a thread and without a signal handler.
//!
//! A timer sends this thread a signal that it blocks everywhere but inside `KVM_RUN` (`KVM_SET_SIGNAL_MASK`), which then
//! returns `EINTR`. The signal is never delivered: what is pending is taken away at the end.

use std::io;
use std::mem::{MaybeUninit, zeroed};
use std::os::fd::AsRawFd;
use std::time::Duration;

use kvm_ioctls::VcpuFd;

/// `_IOW(KVMIO, 0x8b, struct kvm_signal_mask)`, from `linux/kvm.h`.
const KVM_SET_SIGNAL_MASK: libc::c_ulong = 0x4004_ae8b;

/// `struct kvm_signal_mask` with the kernel's 64-bit set.
#[repr(C)]
struct SignalMask {
    len: u32,
    sigset: [u8; 8],
}

/// Runs until it is dropped.
pub struct Deadline {
    /// A handle of zero is a timer like any other.
    timer: Option<libc::timer_t>,
    signal: libc::sigset_t,
    before: libc::sigset_t,
}

impl Deadline {
    /// After `limit`, `KVM_RUN` on this thread returns `EINTR`.
    pub fn start(vcpu: &VcpuFd, limit: Duration) -> io::Result<Deadline> {
        let number = libc::SIGRTMIN();
        // Nothing is blocked while the guest runs: a killed caller dies at once.
        let mask = SignalMask {
            len: 8,
            sigset: [0; 8],
        };
        // SAFETY: the kernel reads a `kvm_signal_mask` of 4 + 8 bytes.
        if unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_SET_SIGNAL_MASK, &raw const mask) } < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut signal = MaybeUninit::uninit();
        let mut before = MaybeUninit::uninit();
        // SAFETY: both sets live on this stack and are written before they are read; the number is a valid signal.
        let (signal, before) = unsafe {
            libc::sigemptyset(signal.as_mut_ptr());
            libc::sigaddset(signal.as_mut_ptr(), number);
            let refused =
                libc::pthread_sigmask(libc::SIG_BLOCK, signal.as_ptr(), before.as_mut_ptr());
            if refused != 0 {
                return Err(io::Error::from_raw_os_error(refused));
            }
            (signal.assume_init(), before.assume_init())
        };
        let mut deadline = Deadline {
            timer: None,
            signal,
            before,
        };
        // SAFETY: an all-zero event is valid; the fields that are read are set.
        let mut event: libc::sigevent = unsafe { zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = number;
        // SAFETY: gettid has no preconditions.
        event.sigev_notify_thread_id = unsafe { libc::gettid() };
        let mut timer = std::ptr::null_mut();
        // SAFETY: both pointers are to live values.
        if unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer) } < 0 {
            return Err(io::Error::last_os_error());
        }
        deadline.timer = Some(timer);
        let zero = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let when = libc::itimerspec {
            it_interval: zero,
            it_value: libc::timespec {
                tv_sec: limit.as_secs() as libc::time_t,
                tv_nsec: libc::c_long::from(limit.subsec_nanos()),
            },
        };
        // SAFETY: the timer exists, the pointer is to a live value, the old setting is not asked for.
        if unsafe { libc::timer_settime(timer, 0, &when, std::ptr::null_mut()) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(deadline)
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        let now = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: the timer is ours and deleted once; the sets are initialised; the signal stays blocked until its
        // pending instance is taken.
        unsafe {
            if let Some(timer) = self.timer {
                libc::timer_delete(timer);
            }
            while libc::sigtimedwait(&self.signal, std::ptr::null_mut(), &now) > 0 {}
            libc::pthread_sigmask(libc::SIG_SETMASK, &self.before, std::ptr::null_mut());
        }
    }
}
