//! The image of this very executable, imported once. It is the node's own, so that Agents of several versions on one Engine
//! do not take each other's away.

use std::io;
use std::sync::{MutexGuard, PoisonError};

use super::{Helper, LABEL, PROGRAM};

const REPOSITORY: &str = "longshore/helper";

impl Helper {
    /// Its name, once it is there. What older Agents of this node have left goes when a new one is made.
    pub(super) fn image(&self) -> Result<String, String> {
        // Held meanwhile, so that it is imported once.
        let mut known = self.known_image();
        if let Some(name) = &*known {
            return Ok(name.clone());
        }
        let program = std::fs::read("/proc/self/exe").map_err(|e| format!("the Agent's executable: {e}"))?;
        let sum = ring::digest::digest(&ring::digest::SHA256, &program);
        let sum: String = sum.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let tag = format!("{}-{sum}", self.node);
        let name = format!("{REPOSITORY}:{tag}");
        match self.client.image_inspect(&name) {
            Err(error) if error.is_not_found() => {
                let archive = archive(&program).map_err(|e| format!("archive: {e}"))?;
                drop(program);
                let made = self.client.image_import(REPOSITORY, &tag, (LABEL, self.node.as_str()), archive);
                let made = made.map_err(|e| format!("import: {e}"))?;
                log::info!("{name} was made of the Agent's executable");
                self.remove_others(&made.id);
            }
            found => drop(found.map_err(|e| format!("image: {e}"))?),
        }
        *known = Some(name.clone());
        Ok(name)
    }

    pub(super) fn forget_image(&self) {
        *self.known_image() = None;
    }

    /// What cannot be removed, for a container still uses it, goes next time.
    fn remove_others(&self, id: &str) {
        let label = format!("{LABEL}={}", self.node);
        let removed = self.client.image_list(&label).and_then(|images| {
            let others = images.iter().filter(|image| image.id != id);
            others.map(|image| self.client.image_remove(&image.id)).collect::<Result<Vec<_>, _>>()
        });
        if let Err(error) = removed {
            log::info!("an image of an older Agent stays behind: {error}");
        }
    }

    fn known_image(&self) -> MutexGuard<'_, Option<String>> {
        self.image.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One file, in an archive.
fn archive(program: &[u8]) -> io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::with_capacity(program.len() + 4096));
    let mut header = tar::Header::new_ustar();
    header.set_size(program.len() as u64);
    header.set_mode(0o555);
    archive.append_data(&mut header, PROGRAM, program)?;
    archive.into_inner()
}
