//! What holders are told before they take hold.

use std::path::PathBuf;

use kernfs::Client;

/// What is held, and how it is reached.
#[derive(Clone)]
pub(crate) struct Ground {
    /// The view of the tree.
    pub(crate) client: Client,
    /// The path of the severed directory in the tree.
    pub(crate) device: PathBuf,
    /// The path of the severed directory in the mount, if there is one.
    pub(crate) mount: Option<PathBuf>,
    /// The path in the copy of the text to be read by halves.
    pub(crate) text: PathBuf,
    /// How many bytes are the first half.
    pub(crate) half: usize,
}
