//! The derive macros of `kernfs-attr`, which re-exports and documents them.

#![forbid(unsafe_code)]

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

mod attributes;

mod choice;

mod names;

/// Turns a struct into a group of files (`kernfs_attr::Attributes`).
///
/// Each field with `#[attr]` is a file, each with `#[group]` a group in the group; others are the
/// owner's own. Doc comments are descriptions, see `kernfs_attr::describe`.
///
/// | in `#[attr(...)]` | |
/// |---|---|
/// | `ro`, `rw`, `wo`, `mode = 0o600` | who can do what: 0444, 0644, 0200, or the mode itself; one of them is there |
/// | `name = "fan1_input"` | the name of the file, otherwise that of the field |
/// | `range = 0..=5000` | what clients may write; anything else is ERANGE |
/// | `unit = "rpm"` | for the description |
/// | `show = Self::method` | what is shown: a method `fn(&self)` that returns a value, or a result of one and an `Errno`; then the type of the field does not matter |
/// | `store = Self::method` | a method `fn(&self, &T) -> Result<(), Errno>` that takes what was written; of a field that holds a value, and has no `show`, the method is asked before the field takes it |
/// | `visible = Self::method` | a method `fn(&self) -> bool` that tells whether the file is there |
///
/// | in `#[group(...)]` | |
/// |---|---|
/// | `name = "id"` | the name of the subdirectory, otherwise that of the field |
/// | `flat` | no subdirectory: its files are in that of the group |
/// | `visible = Self::method` | as above |
///
/// On the struct, `#[attributes(visible = Self::method)]` tells whether the whole group is there.
#[proc_macro_derive(Attributes, attributes(attributes, attr, group))]
pub fn derive_attributes(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    attributes::derive(&input).unwrap_or_else(syn::Error::into_compile_error).into()
}

/// Makes an enum a choice of words (`kernfs_attr::Choice`).
///
/// The words are the names of the variants in snake case, or what `#[choice(name = "...")]` says on
/// a variant. `#[choice(plain)]` on the enum shows the word alone.
#[proc_macro_derive(Choice, attributes(choice))]
pub fn derive_choice(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    choice::derive(&input).unwrap_or_else(syn::Error::into_compile_error).into()
}
