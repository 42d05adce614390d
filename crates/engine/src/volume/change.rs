//! Volumes that exist: copied, or made larger.

use std::collections::BTreeMap;

use store::lock::Mode;
use store::{now_ns, volume};

use super::attach::lease;
use super::emit;
use crate::{Engine, Error, blocking};

impl Engine {
    /// Makes a volume with the contents of another one, which nobody may write to meanwhile.
    ///
    /// # Errors
    /// There is no such volume, somebody writes to it, or the other one exists.
    pub async fn volume_clone(
        &self,
        source: &str,
        name: &str,
        labels: BTreeMap<String, String>,
    ) -> Result<(), Error> {
        let (engine, source, name) = (self.clone(), source.to_owned(), name.to_owned());
        blocking(move || {
            volume::sweep(&engine.root)?;
            let source = volume::open(&engine.root, &source)?;
            let held = lease(&engine, &source, Mode::Shared)?;
            // As its last writer left it, who may have had it until a moment ago.
            let source = volume::open(&engine.root, source.name())?;
            let spec = volume::Spec {
                name,
                created_ns: now_ns(),
                labels,
                anonymous: false,
                ..source.spec().clone()
            };
            let made = volume::clone(&engine.root, &source, &spec, &held)?;
            let from: (&str, &dyn ToString) = ("source", &source.name());
            emit(&engine.root, "create", made.name(), &[from]);
            Ok::<_, Error>(())
        })
        .await
    }

    /// Lets a volume grow to `size` bytes. Its file system follows at the next start of a container that writes to it.
    ///
    /// # Errors
    /// There is no such volume, somebody has it, or it would become smaller.
    pub async fn volume_resize(&self, name: &str, size: u64) -> Result<(), Error> {
        let (engine, name) = (self.clone(), name.to_owned());
        blocking(move || {
            let mut volume = volume::open(&engine.root, &name)?;
            let _lease = lease(&engine, &volume, Mode::Exclusive)?;
            volume.resize(size)?;
            emit(&engine.root, "resize", &name, &[("size", &size)]);
            Ok::<_, Error>(())
        })
        .await
    }
}
