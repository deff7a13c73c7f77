//! Names, documentation, and options, which both macros read.

use std::collections::HashMap;

use syn::{Attribute, Error, Expr, Ident, Lit, LitStr, Meta, Result};

/// Checks the name of a file.
///
/// # Errors
///
/// Says what is wrong with it, and where.
pub(crate) fn check_file_name(name: &str, at: &LitStr) -> Result<()> {
    let wrong = match name {
        "" => "is empty",
        "." | ".." => "means a directory",
        _ if name.contains('/') => "has a slash: make it a `#[group]`",
        _ if name.contains('\0') => "has a NUL",
        _ => return Ok(()),
    };
    Err(Error::new(at.span(), format!("this name of a file {wrong}")))
}

/// Refuses a name that is there already.
///
/// # Errors
///
/// Says what has the name, and where.
pub(crate) fn check_unique(
    names: &mut HashMap<String, Ident>,
    name: &str,
    what: &str,
    ident: &Ident,
) -> Result<()> {
    match names.insert(name.into(), ident.clone()) {
        None => Ok(()),
        Some(other) => Err(Error::new(
            ident.span(),
            format!(
                "{what} `{ident}` and `{other}` are both called `{name}`: give one `name = \"...\"`"
            ),
        )),
    }
}

/// Returns the doc comment, as lines without the blank at their beginning.
pub(crate) fn documentation(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter_map(|attribute| match &attribute.meta {
        Meta::NameValue(meta) if meta.path.is_ident("doc") => match &meta.value {
            Expr::Lit(doc) => match &doc.lit {
                Lit::Str(line) => Some(line.value().trim_end().to_owned()),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    });
    let lines: Vec<String> =
        lines.map(|line| line.strip_prefix(' ').unwrap_or(&line).to_owned()).collect();
    lines.join("\n")
}
