//! The file with the process id, for init systems that keep one: written whole once the Agent works, removed at its
//! orderly end. Nothing is decided by it: that only one Agent runs is the data directory's lock to see to.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Removes the file when dropped.
#[derive(Debug)]
pub struct PidFile(PathBuf);

impl PidFile {
    /// # Errors
    /// When the file cannot be written.
    pub fn write(path: &Path) -> io::Result<PidFile> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".new");
        fs::write(&temporary, format!("{}\n", std::process::id()))?;
        // Whoever reads it finds a whole number, the old or the new one.
        fs::rename(&temporary, path)?;
        Ok(PidFile(path.to_owned()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_file(&self.0) {
            log::warn!("PID_FILE {}: {e}", self.0.display());
        }
    }
}
