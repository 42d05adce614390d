//! A container whose supervisor died: its state says running and its lock is free.

use super::{Container, Error, State, Status, sockets};
use crate::lock::Lock;
use crate::now_ns;

/// The exit code of a process that was lost with its VM.
pub const LOST_EXIT_CODE: u32 = 255;

impl Container {
    /// The state, after writing down that the supervisor died, if it did; `None` when the container was to be removed at its
    /// end, and is. `_lock` is the container's, which proves it.
    ///
    /// What can't be written, on a full disk for example, is true all the same, and whoever comes next finds it out again: so
    /// that what takes the room can be removed.
    ///
    /// # Errors
    /// The state cannot be read, or the container not be removed.
    pub fn repair(&self, _lock: &Lock) -> Result<Option<State>, Error> {
        let mut state = self.state()?;
        // Before the state that names them is rewritten, or gone.
        state.sockets.drain(..).for_each(sockets::sweep);
        let lingers = state.status == Status::Exited && self.spec().remove;
        if !state.status.is_alive() && !lingers {
            // It may have died on its last steps.
            crate::file::remove(&self.supervisor_socket())?;
            return Ok(Some(state));
        }
        if self.spec().remove {
            tracing::warn!(
                vm_id = self.id(),
                "the supervisor died: removing the container"
            );
            self.remove_all()?;
            return Ok(None);
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
        if let Err(error) = self.write_state(&state) {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, vm_id = self.id(), "that can't be written down now");
        }
        crate::file::remove(&self.supervisor_socket())?;
        crate::file::sweep(self.dir())?;
        Ok(Some(state))
    }
}
