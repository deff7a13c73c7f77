//! Drivers that are borrowed: exposed for a lexical scope, as threads are by `std::thread::scope`.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::marker::PhantomData;

use crate::dir::Dir;
use crate::drain::Draining;
use crate::errno::{Errno, Rejected};
use crate::file::{self, FileOptions};
use crate::inside;
use crate::node::AnyDriver;
use crate::ops::{FileOps, Notifier};
use crate::owner::Owner;
use crate::sync::Mutex;

impl Dir {
    /// Runs `body`, in which drivers can be exposed that borrow from around it.
    ///
    /// When `body` is done, or panics, everything that it exposed is severed and drained, also if a
    /// client had it removed before.
    ///
    /// # Errors
    ///
    /// EDEADLK inside an operation of the same tree, where the drain could not be waited for.
    ///
    /// # Examples
    ///
    /// ```
    /// use kernfs::{Caller, Mode, OpenFlags, Tree, show};
    ///
    /// let tree = Tree::new();
    /// let rpm = 1200;
    /// tree.root().scope(|scope| {
    ///     scope.expose("rpm", Mode::RO, show(|op| op.push(rpm.to_string().as_bytes())))?;
    ///     let file = tree.client(Caller::OWNER).open("/rpm", OpenFlags::READ)?;
    ///     assert_eq!(file.read_to_vec()?, b"1200");
    ///     Ok::<(), kernfs::Errno>(())
    /// })??;
    /// # Ok::<(), kernfs::Errno>(())
    /// ```
    pub fn scope<'env, R>(
        &self,
        body: impl for<'scope> FnOnce(&'scope Scope<'scope, 'env>) -> R,
    ) -> Result<R, Errno> {
        let tree = self.owner.tree();
        if inside::tree(tree.realm.id()) {
            return Err(Errno::EDEADLK);
        }
        let scope = Scope {
            dir: Owner::borrowed(tree, self.owner.node()),
            exposed: Exposed(Mutex::default()),
            scope: PhantomData,
            env: PhantomData,
        };
        Ok(body(&scope))
    }
}

/// A scope in which borrowed drivers are exposed; see [`Dir::scope`].
pub struct Scope<'scope, 'env: 'scope> {
    dir: Owner,
    exposed: Exposed<'env>,
    // Invariant, as in `std::thread::Scope`: neither lifetime may be shortened or stretched.
    scope: PhantomData<&'scope mut &'scope ()>,
    env: PhantomData<&'env mut &'env ()>,
}

/// What a scope has exposed; its drop ends it.
struct Exposed<'env>(Mutex<Vec<(Owner, Arc<dyn AnyDriver + 'env>)>>);

impl<'scope, 'env> Scope<'scope, 'env> {
    /// Adds a file whose driver may borrow from outside the scope.
    ///
    /// # Errors
    ///
    /// As for [`Dir::add_file`].
    pub fn expose<T: FileOps + 'env>(
        &'scope self,
        name: impl AsRef<[u8]>,
        options: impl Into<FileOptions>,
        driver: T,
    ) -> Result<Notifier, Rejected<T>> {
        let erase = |driver: Arc<T>| erase(driver);
        let (owner, driver) = file::add(&self.dir, name.as_ref(), options.into(), driver, erase)?;
        let notifier = owner.tree().notifier(owner.node());
        self.exposed.0.lock().push((owner, driver));
        Ok(notifier)
    }
}

impl Drop for Exposed<'_> {
    fn drop(&mut self) {
        let exposed = core::mem::take(&mut *self.0.lock());
        let mut drivers = Vec::new();
        let mut drainings: Vec<Draining> = Vec::new();
        for (owner, driver) in exposed {
            drainings.push(owner.sever());
            drivers.push(driver);
        }
        for mut draining in drainings {
            draining.wait_anywhere();
        }
        // The last references: open files have let go of theirs before the drains were done, the
        // node when it was severed, by whomever.
        drop(drivers);
    }
}

impl fmt::Debug for Scope<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope").finish_non_exhaustive()
    }
}

/// Makes a node hold a borrowed driver.
fn erase<'env>(driver: Arc<dyn AnyDriver + 'env>) -> Arc<dyn AnyDriver> {
    // SAFETY: only the lifetime changes. The driver is used through this reference, and through
    // those that open files get from it, until they are dropped; all are dropped before `'env`
    // ends: `Exposed` is dropped at the end of `Dir::scope`, in which `'env` is alive, and it waits
    // for the drain of the file, however the file was severed. `Scope` is only lent out, so that
    // nobody can forget it. A file whose driver is not kept by its directory, which a scope never
    // allows, drops the node's reference before the drain is done (`FileNode::sever`), and each
    // gate drops its own before it gives back its part of the drain (`Gate::dismantle`).
    // An open file that outlives the scope has a dismantled gate and holds no `T` any more.
    unsafe { core::mem::transmute::<Arc<dyn AnyDriver + 'env>, Arc<dyn AnyDriver>>(driver) }
}
