//! Borrowed attributes: exposed for a lexical scope.

use kernfs::{Errno, FileOps, FileOptions, Mode, Notifier, ReadOp, Scope, WriteOp};

use crate::attr::Attribute;
use crate::driver::{Install, Serve, Shape, allowed, install};

/// Exposes attributes in a [`Scope`].
pub trait ScopeExt<'scope, 'env>: sealed::Sealed {
    /// Adds a file for an attribute that lives around the scope, for as long as the scope lasts.
    ///
    /// # Errors
    ///
    /// As for [`DirExt::add_attr`](crate::DirExt::add_attr).
    ///
    /// # Examples
    ///
    /// ```
    /// use kernfs::{Caller, Mode, OpenFlags, Tree};
    /// use kernfs_attr::{Attr, ScopeExt};
    ///
    /// let tree = Tree::new();
    /// let level = Attr::new(1u8).range(1..=5); // on the stack
    /// tree.root().scope(|scope| {
    ///     scope.expose_attr("level", Mode::RW, &level)?;
    ///     let file = tree.client(Caller::OWNER).open("/level", OpenFlags::READ_WRITE)?;
    ///     file.write(b"3\n")?;
    ///     level.set(level.get() + 1);
    ///     assert_eq!(file.read_to_string()?, "4\n");
    ///     Ok::<(), kernfs::Errno>(())
    /// })??;
    /// assert_eq!(level.into_inner(), 4);
    /// # Ok::<(), kernfs::Errno>(())
    /// ```
    fn expose_attr<A: Attribute>(
        &'scope self,
        name: impl AsRef<str>,
        mode: Mode,
        attr: &'env A,
    ) -> Result<(), Errno>;
}

impl<'scope, 'env> ScopeExt<'scope, 'env> for Scope<'scope, 'env> {
    fn expose_attr<A: Attribute>(
        &'scope self,
        name: impl AsRef<str>,
        mode: Mode,
        attr: &'env A,
    ) -> Result<(), Errno> {
        let shape = Shape { mode, ops: attr.ops() & allowed(mode), size: attr.size() };
        let in_scope = InScope { scope: self, name: name.as_ref() };
        // After the scope the notifier does nothing.
        attr.bind(Some(install(shape, Borrowed(attr), in_scope)?));
        Ok(())
    }
}

struct Borrowed<'env, A>(&'env A);

impl<A: Attribute> Serve for Borrowed<'_, A> {
    fn show(&self, op: &mut ReadOp<'_>) -> Result<(), Errno> {
        self.0.show(op)
    }

    fn store(&self, op: &mut WriteOp<'_>) -> Result<usize, Errno> {
        self.0.store(op)
    }
}

struct InScope<'a, 'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    name: &'a str,
}

impl<'env> Install<'env> for InScope<'_, '_, 'env> {
    type Installed = Notifier;

    fn install<T: FileOps + 'env>(
        self,
        options: FileOptions,
        driver: T,
    ) -> Result<Notifier, Errno> {
        Ok(self.scope.expose(self.name, options, driver)?)
    }
}

mod sealed {
    pub trait Sealed {}

    impl Sealed for kernfs::Scope<'_, '_> {}
}
