//! Replacing a container's spec: other limits, another name.

use super::{Container, Error, Spec, check_name, names};
use crate::lock::{Lock, Mode};
use crate::{fault, json};

impl Container {
    /// Replaces `spec.json` by what `change` makes of what it says now. Under the lock of `containers/`, so that changes come
    /// one after another and names stay unique; it need not be stopped. The id stays.
    ///
    /// # Errors
    /// [`Error::NameInUse`], [`Error::InvalidName`]; [`Error::NotFound`] when it was removed; what failed. Then nothing is
    /// changed, but for a failure to make it durable.
    pub fn rewrite_spec(&mut self, change: impl FnOnce(&mut Spec)) -> Result<(), Error> {
        let lock = Lock::acquire(&self.root.containers(), Mode::Exclusive)?;
        let locked = names::Locked::new(&lock);
        let old = Self::from_dir(&self.root, &self.dir)?.spec;
        let mut new = old.clone();
        change(&mut new);
        new.schema = old.schema;
        new.id.clone_from(&old.id);
        let renamed = new.name != old.name;
        if renamed {
            check_name(&new.name)?;
            names::check_free(&self.root, &new.name, locked)?;
            names::enter(&self.root, &new.name, &new.id, locked)?;
            fault::point("rewrite.name-entered");
        }
        let written = json::write(&self.dir.join("spec.json"), &new, self.durability());
        if let Err(error) = written {
            if renamed {
                names::leave(&self.root, &new.name, locked)?;
            }
            return Err(if error.is_not_found() {
                Error::NotFound(new.id)
            } else {
                error.into()
            });
        }
        fault::point("rewrite.spec-written");
        if renamed {
            names::leave(&self.root, &old.name, locked)?;
            fault::point("rewrite.old-name-removed");
        }
        self.spec = new;
        Ok(())
    }
}
