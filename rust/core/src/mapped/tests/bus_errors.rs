//! A bus error that is not ours goes to whom it went before, in processes of their own.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use super::*;

const CASE: &str = "GLOSSATOR_BUS_ERROR_CASE";

/// Reads where a plainly mapped file was cut off.
fn foreign_fault() {
    let disk = OnDisk::new(noise(2 * PAGE, 8));
    let file = File::open(disk.path()).unwrap();
    // SAFETY: the file is this test's own; that it is cut off is the test.
    let map = unsafe { memmap2::Mmap::map(&file) }.unwrap();
    disk.cut(0);
    panic!("read {} beyond the end", map[PAGE]);
}

/// What `PREVIOUS` of `like_faulthandler` was.
static FOUND: std::sync::Mutex<Option<libc::sigaction>> = std::sync::Mutex::new(None);

fn handle_bus_errors(handler: extern "C" fn(libc::c_int)) {
    // SAFETY: all zeros is a `sigaction`; the handler takes one argument, as its flags say.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let mut found: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_NODEFER;
        libc::sigaction(libc::SIGBUS, &raw const action, &raw mut found);
        *FOUND.lock().unwrap() = Some(found);
    }
}

extern "C" fn leave_with_42(_: libc::c_int) {
    // SAFETY: may be called in a handler.
    unsafe { libc::_exit(42) };
}

/// Says so, restores what it found, and raises the signal again.
extern "C" fn like_faulthandler(signal: libc::c_int) {
    let found = FOUND.lock().unwrap().unwrap();
    // SAFETY: all three may be called in a handler; `found` is what `sigaction` gave.
    unsafe {
        libc::write(2, b"asked\n".as_ptr().cast(), 6);
        libc::sigaction(signal, &raw const found, std::ptr::null_mut());
        libc::raise(signal);
    }
}

/// What the next test runs in a process of its own.
#[test]
fn child() {
    let Ok(case) = std::env::var(CASE) else {
        return;
    };
    let no_core = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: sets a limit of this process.
    unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const no_core) };
    let disk = OnDisk::new(noise(3 * PAGE, 9));
    if case == "earlier" {
        handle_bus_errors(leave_with_42);
    }
    let mapped = disk.open();
    if case == "later" {
        handle_bus_errors(like_faulthandler);
        disk.open();
    }
    if case == "later still" {
        handle_bus_errors(like_faulthandler);
        mapped.still_whole().unwrap();
    }
    let bytes = mapped.bytes(0..2 * PAGE as u64).unwrap();
    disk.cut(5);
    assert_eq!(bytes[PAGE], 0);
    assert_eq!(problem(mapped.intact()), SHORTER);
    match &case[..] {
        "sent" => {
            // The handler that Rust gives every program steps aside at the first and expects another.
            for _ in 0..2 {
                // SAFETY: kills this process.
                unsafe { libc::raise(libc::SIGBUS) };
            }
        }
        _ => foreign_fault(),
    }
}

#[test]
fn a_bus_error_elsewhere_is_left_to_others() {
    let run = |case| {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "mapped::tests::bus_errors::child", "--nocapture"])
            .env(CASE, case)
            .output()
            .unwrap()
    };
    for case in ["fault", "sent", "later", "later still"] {
        let output = run(case);
        assert_eq!(
            output.status.signal(),
            Some(libc::SIGBUS),
            "{case}: {output:?}"
        );
        let asked = String::from_utf8_lossy(&output.stderr)
            .matches("asked\n")
            .count();
        assert_eq!(asked, usize::from(case.starts_with("later")), "{output:?}");
    }
    assert_eq!(run("earlier").status.code(), Some(42));
}
