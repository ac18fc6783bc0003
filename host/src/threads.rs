//! What a thread tells the system of itself.

use std::time::Duration;

/// Short beside what anybody waits for. With less, threads that work for the same order stop each other too often.
const SLICE: Duration = Duration::from_micros(250);

/// Asks for short slices of the CPU for the calling thread, and for threads that it starts from here on: they get no more of
/// the CPU, but sooner.
///
/// An order walks through several threads, each of which has microseconds to do. Where a guest computes, Linux lets each
/// wait for what is left of the guest's slice and for the next tick of its clock, up to 4 ms; the thread that is to
/// interrupt the guest waits so, too. All threads of the host should have the same, or those with the shortest take the
/// others' turns where there is too much to do. Linux knows slices of threads since 6.12; earlier ones, and other systems,
/// go on as before.
#[cfg(target_os = "linux")]
pub fn in_short_slices() {
    let Some(mut attributes) = attributes() else { return };
    // What has another policy has it by somebody's will.
    if i64::from(attributes.sched_policy) != i64::from(libc::SCHED_OTHER) {
        return;
    }
    attributes.sched_runtime = u64::try_from(SLICE.as_nanos()).unwrap_or_default();
    #[allow(unsafe_code, reason = "no library has this call; it reads a structure of the size that stands in it")]
    // SAFETY: the pointer is to a whole `sched_attr`, as the kernel wrote it; it is only read.
    let answer = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if answer != 0 {
        tracing::debug!(error = %std::io::Error::last_os_error(), "threads keep the slices of the CPU that they have");
    }
}

#[cfg(not(target_os = "linux"))]
pub fn in_short_slices() {}

/// How the calling thread is scheduled.
#[cfg(target_os = "linux")]
fn attributes() -> Option<libc::sched_attr> {
    let size = u32::try_from(size_of::<libc::sched_attr>()).ok()?;
    let mut attributes = libc::sched_attr {
        size,
        sched_policy: 0,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    };
    #[allow(unsafe_code, reason = "no library has this call; it writes no more than the size that it is given")]
    // SAFETY: the pointer is to a whole `sched_attr` of `size` bytes that lives until the call is over.
    let answer = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) };
    (answer == 0).then_some(attributes)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_thread_keeps_its_policy_and_gets_short_slices_where_there_are_any() {
        let tell = || {
            let before = attributes().unwrap();
            in_short_slices();
            (before, attributes().unwrap())
        };
        let (before, after) = std::thread::spawn(tell).join().unwrap();
        assert_eq!((before.sched_policy, before.sched_nice), (after.sched_policy, after.sched_nice));
        // Kernels that know no slices of threads tell of none.
        if before.sched_runtime != 0 {
            assert_eq!(u128::from(after.sched_runtime), SLICE.as_nanos());
        }
    }
}
