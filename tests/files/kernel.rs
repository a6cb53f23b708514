//! A kernel without `openat2`, as those before 5.6 are: a filter that answers ENOSYS to it, for a thread and for whatever
//! that starts.

use std::thread;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

/// `openat2` has the same number on every architecture (Linux, since all new calls were given one number).
const OPENAT2: i64 = 437;

/// Does `work` on a thread for which there is no `openat2`.
pub fn without_openat2<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let filter = SeccompFilter::new(
        [(OPENAT2, vec![])].into(),
        SeccompAction::Allow,
        SeccompAction::Errno(Errno::NOSYS.raw_os_error().cast_unsigned()),
        std::env::consts::ARCH.try_into().expect("the filter knows the architecture"),
    );
    let filter: BpfProgram = filter.and_then(TryInto::try_into).expect("a filter of one rule");
    let work = || {
        apply_filter(&filter).expect("a thread may filter itself");
        let opened = openat2(CWD, ".", OFlags::RDONLY, Mode::empty(), ResolveFlags::empty());
        assert_eq!(opened.unwrap_err(), Errno::NOSYS);
        work()
    };
    thread::scope(|scope| scope.spawn(work).join()).expect("the work does not panic")
}
