//! The handler of `SIGBUS`, and whom it asks when the address is not ours.

use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use libc::{c_int, c_void, sigaction, siginfo_t};

use super::registry;

/// Handlers that ours was put in front of; more are not expected in one process.
const HANDLERS: usize = 16;

/// A handler that was there when ours was installed.
struct Previous {
    handler: AtomicUsize,
    flags: AtomicI32,
}

/// The earliest first; `COUNT` of them are set, and those never change while the handler may run.
static PREVIOUS: [Previous; HANDLERS] = [const {
    Previous {
        handler: AtomicUsize::new(libc::SIG_DFL),
        flags: AtomicI32::new(0),
    }
}; HANDLERS];
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// How many calls of an earlier handler are under way.
static ASKING: AtomicUsize = AtomicUsize::new(0);

/// Makes ours the handler of `SIGBUS`, in front of the one that is there. One system call if it is
/// ours already.
pub(super) fn install() -> io::Result<()> {
    static INSTALLING: Mutex<()> = Mutex::new(());
    let ours = on_bus_error as *const () as usize;
    if current()?.sa_sigaction == ours {
        return Ok(());
    }
    let _one_at_a_time = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    let found = current()?;
    if found.sa_sigaction == ours {
        return Ok(());
    }
    let count = COUNT.load(Ordering::Relaxed);
    let known = PREVIOUS[..count]
        .iter()
        .any(|previous| previous.handler.load(Ordering::Relaxed) == found.sa_sigaction);
    if !known {
        let Some(free) = PREVIOUS.get(count) else {
            return Err(io::Error::other("too many handlers of SIGBUS"));
        };
        free.handler.store(found.sa_sigaction, Ordering::Relaxed);
        free.flags.store(found.sa_flags, Ordering::Relaxed);
        COUNT.store(count + 1, Ordering::Release);
    }
    // On a signal stack where the thread has one, and again while it runs: a handler that it asks
    // may meet the next bus error.
    set(ours, libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER)
}

fn current() -> io::Result<sigaction> {
    let mut found = MaybeUninit::<sigaction>::uninit();
    // SAFETY: with no new action, the call only fills `found`; it is read if the call succeeded.
    unsafe {
        match libc::sigaction(libc::SIGBUS, ptr::null(), found.as_mut_ptr()) {
            0 => Ok(found.assume_init()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

fn set(handler: usize, flags: c_int) -> io::Result<()> {
    // SAFETY: all zeros is a `sigaction`, and `sigemptyset` completes its mask. `handler` is
    // `SIG_DFL` or a function of the kind that `flags` names.
    let done = unsafe {
        let mut action: sigaction = MaybeUninit::zeroed().assume_init();
        action.sa_sigaction = handler;
        action.sa_flags = flags;
        libc::sigemptyset(&raw mut action.sa_mask);
        libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut())
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

extern "C" fn on_bus_error(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: with `SA_SIGINFO` the kernel hands over a whole `siginfo_t`. The address in it is one
    // only if a fault and not a process sent the signal.
    let (fault, address) = unsafe {
        let fault = (1..=5).contains(&(*info).si_code); // the codes BUS_*
        (fault, (*info).si_addr() as usize)
    };
    if fault && lay_zeros(address) {
        return;
    }
    ask_previous(signal, info, context, fault);
}

/// If the address is in a mapping of ours: marks that, and makes all of it zeros.
fn lay_zeros(address: usize) -> bool {
    let Some((slot, start, end)) = registry::find(address) else {
        return false;
    };
    // First, so that whoever sees a zero sees the mark.
    slot.lose();
    // SAFETY: the mapping is ours from `start` to `end`, and it stays, for this thread was reading
    // from it. It is never written to, so that it may as well consist of zeros. `mmap` is a bare
    // system call here; that it is not on the list of what a handler may call is an oversight that
    // everyone relies on.
    let zeros = unsafe {
        libc::mmap(
            start as *mut c_void,
            end - start,
            libc::PROT_READ,
            libc::MAP_PRIVATE | libc::MAP_ANON | libc::MAP_FIXED,
            -1,
            0,
        )
    };
    zeros != libc::MAP_FAILED
}

/// Hands the signal to the handler that was there before ours.
///
/// That one may hand it on in turn, by restoring what *it* found (ours) and raising the signal again,
/// as Python's faulthandler does. So a second signal during the first goes to the next earlier
/// handler, and in the end the process dies of it as it would have without us.
fn ask_previous(signal: c_int, info: *mut siginfo_t, context: *mut c_void, fault: bool) {
    let asking = ASKING.fetch_add(1, Ordering::AcqRel);
    let previous = COUNT
        .load(Ordering::Acquire)
        .checked_sub(asking + 1)
        .and_then(|last| PREVIOUS.get(last));
    let (handler, flags) = previous.map_or((libc::SIG_DFL, 0), |previous| {
        (
            previous.handler.load(Ordering::Relaxed),
            previous.flags.load(Ordering::Relaxed),
        )
    });
    if handler == libc::SIG_IGN && !fault {
        // Sent by a process, and ignored before: ignored still.
    } else if handler == libc::SIG_DFL || handler == libc::SIG_IGN {
        // A fault that is ignored kills too. The instruction is repeated and dies; a signal that
        // was sent has to be sent again.
        if set(libc::SIG_DFL, 0).is_err() {
            // SAFETY: may be called anywhere.
            unsafe { libc::abort() };
        }
        if !fault {
            // SAFETY: `raise` may be called in a handler.
            unsafe { libc::raise(signal) };
        }
    } else if flags & libc::SA_SIGINFO != 0 {
        // SAFETY: the flag says that the function takes these three.
        let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) =
            unsafe { std::mem::transmute(handler) };
        handler(signal, info, context);
    } else {
        // SAFETY: without the flag the function takes the signal alone.
        let handler: extern "C" fn(c_int) = unsafe { std::mem::transmute(handler) };
        handler(signal);
    }
    ASKING.fetch_sub(1, Ordering::AcqRel);
}
