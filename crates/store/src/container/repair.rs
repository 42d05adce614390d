//! A container whose supervisor died: its state says running and its lock is free.

use super::{Container, Error, Status, sockets};
use crate::lock::Lock;
use crate::now_ns;

/// The exit code of a process that was lost with its VM.
pub const LOST_EXIT_CODE: u32 = 255;

/// What [`Container::repair`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repaired {
    /// There was nothing to repair.
    Nothing,
    /// It is exited now, and its state says why.
    Exited,
    /// It was to be removed at its end, and is.
    Removed,
}

impl Container {
    /// Writes down that the supervisor died, if it did; `_lock` is the container's, which proves it.
    ///
    /// # Errors
    /// The state cannot be read or written.
    pub fn repair(&self, _lock: &Lock) -> Result<Repaired, Error> {
        let mut state = self.state()?;
        // Before the state that names them is rewritten, or gone.
        state.sockets.drain(..).for_each(sockets::sweep);
        let lingers = state.status == Status::Exited && self.spec().remove;
        if !state.status.is_alive() && !lingers {
            // It may have died on its last steps.
            crate::file::remove(&self.supervisor_socket())?;
            return Ok(Repaired::Nothing);
        }
        if self.spec().remove {
            tracing::warn!(
                vm_id = self.id(),
                "the supervisor died: removing the container"
            );
            self.remove_all()?;
            return Ok(Repaired::Removed);
        }
        let pid = state
            .pid
            .map_or_else(String::new, |pid| format!(" (process {pid})"));
        let error = format!("the supervisor{pid} died, or the host went down");
        tracing::warn!(vm_id = self.id(), error, "repaired");
        state.status = Status::Exited;
        state.pid = None;
        state.exit_code = Some(LOST_EXIT_CODE);
        state.finished_ns = Some(now_ns());
        state.error = Some(error);
        self.write_state(&state)?;
        crate::file::remove(&self.supervisor_socket())?;
        crate::file::sweep(self.dir())?;
        Ok(Repaired::Exited)
    }
}
