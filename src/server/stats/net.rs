//! The traffic of a container: `/proc/<pid>/net/dev` of any of its processes shows its network namespace (proc(5)).

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::kernel_file::{KernelFile, Place};

/// Bytes since the container started, over all its interfaces but loopback.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub rx: u64,
    pub tx: u64,
}

/// The file of one process. `proc` is `/proc`.
pub fn file(proc: &Arc<Path>, pid: u32) -> KernelFile {
    KernelFile::new(Place { mount: proc.clone(), dir: pid.to_string().into(), name: "net/dev" })
}

/// Reads it through `buffer`, which is kept between calls, as the file is if `keep` says so: the container's network
/// stays for as long.
///
/// # Errors
/// When the process is gone.
pub fn read(file: &mut KernelFile, buffer: &mut Vec<u8>, keep: bool) -> io::Result<Traffic> {
    file.read(buffer, keep).map(parse)
}

/// After two lines of headings: name, colon, eight figures received, eight sent; bytes come first in each.
fn parse(text: &str) -> Traffic {
    let mut sum = Traffic::default();
    for line in text.lines().skip(2) {
        let Some((name, figures)) = line.split_once(':') else { continue };
        if name.trim() == "lo" {
            continue;
        }
        let mut figures = figures.split_ascii_whitespace().map(|figure| figure.parse().unwrap_or(0u64));
        sum.rx = sum.rx.saturating_add(figures.next().unwrap_or(0));
        sum.tx = sum.tx.saturating_add(figures.nth(7).unwrap_or(0));
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_all_interfaces_but_loopback() {
        let text = "Inter-|   Receive |  Transmit\n face |bytes packets |bytes\n\
                    \x20   lo: 9 1 0 0 0 0 0 0 9 1 0 0 0 0 0 0\n\
                    \x20 eth0: 100 2 0 0 0 0 0 0 70 3 0 0 0 0 0 0\n\
                    eth1:5 1 0 0 0 0 0 0 6 1 0 0 0 0 0 0\n";
        assert_eq!(parse(text), Traffic { rx: 105, tx: 76 });
        assert_eq!(parse(""), Traffic::default());
    }
}
