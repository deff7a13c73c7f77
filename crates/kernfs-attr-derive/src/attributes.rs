//! `#[derive(Attributes)]`.

use std::collections::HashMap;

use proc_macro2::TokenStream;
use quote::{ToTokens, quote, quote_spanned};
use syn::meta::ParseNestedMeta;
use syn::spanned::Spanned;
use syn::{Data, DeriveInput, Error, Expr, Field, Fields, Ident, LitInt, LitStr, Result};

use crate::names::{check_file_name, check_unique, documentation};

pub(crate) fn derive(input: &DeriveInput) -> Result<TokenStream> {
    let fields = match &input.data {
        Data::Struct(data) => match &data.fields {
            Fields::Named(fields) => &fields.named,
            _ => return Err(not_a_struct(input)),
        },
        _ => return Err(not_a_struct(input)),
    };
    let mut entries = Vec::new();
    let mut names = HashMap::new();
    let mut errors: Option<Error> = None;
    for field in fields {
        match entry(field, &mut names) {
            Ok(entry) => entries.extend(entry),
            // All fields that are wrong are told of at once.
            Err(error) => match &mut errors {
                Some(errors) => errors.combine(error),
                None => errors = Some(error),
            },
        }
    }
    if let Some(errors) = errors {
        return Err(errors);
    }
    let is_visible = group_visibility(input)?.map(|visible| {
        quote! {
            fn is_visible(&self) -> bool {
                (#visible)(self)
            }
        }
    });
    let ident = &input.ident;
    let (impl_generics, ty_generics, where_clause) = input.generics.split_for_impl();
    Ok(quote! {
        impl #impl_generics ::kernfs_attr::Attributes for #ident #ty_generics #where_clause {
            const ENTRIES: &'static [::kernfs_attr::Entry<Self>] = &[#(#entries),*];
            #is_visible
        }
    })
}

fn not_a_struct(input: &DeriveInput) -> Error {
    let message = format!("`{}` is no struct with named fields: each file is a field", input.ident);
    Error::new_spanned(&input.ident, message)
}

/// Reads `#[attributes(visible = ...)]`.
fn group_visibility(input: &DeriveInput) -> Result<Option<Expr>> {
    let mut visible = None;
    for attribute in input.attrs.iter().filter(|attribute| attribute.path().is_ident("attributes"))
    {
        attribute.parse_nested_meta(|meta| {
            if !meta.path.is_ident("visible") {
                return Err(meta.error("on the struct there is only `visible = Self::METHOD`"));
            }
            visible = Some(meta.value()?.parse()?);
            Ok(())
        })?;
    }
    Ok(visible)
}

/// Returns what declares a field, if it is a file or a group.
fn entry(field: &Field, names: &mut HashMap<String, Ident>) -> Result<Option<TokenStream>> {
    let Some(ident) = &field.ident else {
        return Ok(None);
    };
    let mut declared = field.attrs.iter().filter(|attribute| {
        attribute.path().is_ident("attr") || attribute.path().is_ident("group")
    });
    let Some(attribute) = declared.next() else {
        return Ok(None);
    };
    if let Some(second) = declared.next() {
        let message =
            format!("field `{ident}` is declared twice: leave one `#[attr]` or `#[group]`");
        return Err(Error::new_spanned(second, message));
    }
    let mut options = Options::default();
    if attribute.path().is_ident("group") {
        if !matches!(attribute.meta, syn::Meta::Path(_)) {
            attribute.parse_nested_meta(|meta| options.parse_of_group(ident, &meta))?;
        }
        return group(field, ident, &options, names).map(Some);
    }
    if matches!(attribute.meta, syn::Meta::Path(_)) {
        return Err(no_mode(ident));
    }
    attribute.parse_nested_meta(|meta| options.parse_of_file(ident, &meta))?;
    file(field, ident, &options, names).map(Some)
}

fn no_mode(ident: &Ident) -> Error {
    let message = format!(
        "field `{ident}` does not say who can use it: add `ro`, `rw`, `wo` or `mode = 0o...`"
    );
    Error::new(ident.span(), message)
}

/// What stands in `#[attr(...)]` or `#[group(...)]`.
#[derive(Default)]
struct Options {
    mode: Option<u16>,
    name: Option<LitStr>,
    unit: Option<LitStr>,
    range: Option<Expr>,
    show: Option<Expr>,
    store: Option<Expr>,
    visible: Option<Expr>,
    flat: bool,
}

impl Options {
    fn parse_of_file(&mut self, ident: &Ident, meta: &ParseNestedMeta<'_>) -> Result<()> {
        let Some(option) = meta.path.get_ident() else {
            return Err(unknown_of_file(ident, meta));
        };
        match option.to_string().as_str() {
            "ro" => self.set_mode(ident, meta, 0o444),
            "rw" => self.set_mode(ident, meta, 0o644),
            "wo" => self.set_mode(ident, meta, 0o200),
            "mode" => {
                let bits: LitInt = meta.value()?.parse()?;
                let mode = bits.base10_parse().ok().filter(|mode| *mode <= 0o777);
                let octal = bits.to_string().starts_with("0o");
                match mode.filter(|mode| *mode != 0 && octal) {
                    Some(mode) => self.set_mode(ident, meta, mode),
                    None => {
                        let message = format!(
                            "field `{ident}`: a mode is an octal number up to 0o777, \
                             with somebody who can use the file"
                        );
                        Err(Error::new(bits.span(), message))
                    }
                }
            }
            "name" => set(&mut self.name, ident, meta),
            "unit" => set(&mut self.unit, ident, meta),
            "range" => set(&mut self.range, ident, meta),
            "show" => set(&mut self.show, ident, meta),
            "store" => set(&mut self.store, ident, meta),
            "visible" => set(&mut self.visible, ident, meta),
            _ => Err(unknown_of_file(ident, meta)),
        }
    }

    fn parse_of_group(&mut self, ident: &Ident, meta: &ParseNestedMeta<'_>) -> Result<()> {
        if meta.path.is_ident("name") {
            set(&mut self.name, ident, meta)
        } else if meta.path.is_ident("visible") {
            set(&mut self.visible, ident, meta)
        } else if meta.path.is_ident("flat") {
            self.flat = true;
            Ok(())
        } else {
            Err(meta.error(format!(
                "field `{ident}`: a group has `name = \"...\"`, `flat`, `visible = Self::METHOD`"
            )))
        }
    }

    fn set_mode(&mut self, ident: &Ident, meta: &ParseNestedMeta<'_>, mode: u16) -> Result<()> {
        match self.mode.replace(mode) {
            None => Ok(()),
            Some(_) => Err(meta.error(format!("field `{ident}` has two modes: leave one"))),
        }
    }
}

fn unknown_of_file(ident: &Ident, meta: &ParseNestedMeta<'_>) -> Error {
    meta.error(format!(
        "field `{ident}`: there are `ro`, `rw`, `wo`, `mode`, `name`, `range`, `unit`, `show`, \
         `store`, `visible`"
    ))
}

fn set<T: syn::parse::Parse>(
    option: &mut Option<T>,
    ident: &Ident,
    meta: &ParseNestedMeta<'_>,
) -> Result<()> {
    match option.replace(meta.value()?.parse()?) {
        None => Ok(()),
        Some(_) => Err(meta.error(format!("field `{ident}` has this twice: leave one"))),
    }
}

/// Returns the name of a file or directory.
fn name(ident: &Ident, options: &Options, names: &mut HashMap<String, Ident>) -> Result<String> {
    let name = match &options.name {
        None => ident.to_string().trim_start_matches("r#").to_owned(),
        Some(name) => {
            check_file_name(&name.value(), name)?;
            name.value()
        }
    };
    check_unique(names, &name, "fields", ident)?;
    Ok(name)
}

fn group(
    field: &Field,
    ident: &Ident,
    options: &Options,
    names: &mut HashMap<String, Ident>,
) -> Result<TokenStream> {
    let ty = &field.ty;
    let part = quote_spanned!(ty.span()=> |outer| ::kernfs_attr::Subgroup::new(outer, |whole: &Self| &whole.#ident));
    let mut entry = if options.flat {
        if let Some(name) = &options.name {
            let message = format!("field `{ident}` is `flat`, and so has no directory to be named");
            return Err(Error::new(name.span(), message));
        }
        quote_spanned!(ty.span()=> ::kernfs_attr::Entry::flat_group::<#ty>(#part))
    } else {
        let name = name(ident, options, names)?;
        quote_spanned!(ty.span()=> ::kernfs_attr::Entry::group::<#ty>(#name, #part))
    };
    describe(&mut entry, field, options);
    Ok(entry)
}

fn file(
    field: &Field,
    ident: &Ident,
    options: &Options,
    names: &mut HashMap<String, Ident>,
) -> Result<TokenStream> {
    let mode = options.mode.ok_or_else(|| no_mode(ident))?;
    let (reads, writes) = (mode & 0o444 != 0, mode & 0o222 != 0);
    if let Some(show) = options.show.as_ref().filter(|_| !reads) {
        let message = format!("field `{ident}` cannot be read: `show` needs `ro` or `rw`");
        return Err(Error::new_spanned(show, message));
    }
    let store = options.store.as_ref().map(|store| ("store", store));
    let range = options.range.as_ref().map(|range| ("range", range));
    if let Some((what, at)) = store.or(range).filter(|_| !writes) {
        let message = format!("field `{ident}` cannot be written: `{what}` needs `rw` or `wo`");
        return Err(Error::new_spanned(at, message));
    }
    if options.show.is_some() && writes && options.store.is_none() {
        let message = format!(
            "field `{ident}` has `show` and can be written: say by `store = Self::METHOD` what \
             takes it, or make it `ro`"
        );
        return Err(Error::new(ident.span(), message));
    }
    let name = name(ident, options, names)?;
    let mut entry = quote! {
        ::kernfs_attr::Entry::file(#name, ::kernfs_attr::derive::Mode::new(#mode))
    };
    entry.extend(access(field, ident, options, reads, writes));
    if let Some(unit) = &options.unit {
        entry.extend(quote!(.unit(#unit)));
    }
    if let Some(range) = &options.range {
        let text = range.to_token_stream().to_string().replace(' ', "");
        entry.extend(quote!(.range(#text)));
    }
    describe(&mut entry, field, options);
    Ok(entry)
}

/// Returns what says how a file is read and written.
fn access(
    field: &Field,
    ident: &Ident,
    options: &Options,
    reads: bool,
    writes: bool,
) -> TokenStream {
    let ty = field.ty.span();
    let check = match &options.range {
        Some(range) => quote!(|value| ::kernfs_attr::derive::in_range(value, &(#range))),
        None => quote!(|_| ::core::result::Result::Ok(())),
    };
    // Methods alone: the field is only a place for them.
    let methods = options.show.is_some() || (!reads && options.store.is_some());
    if methods {
        let show = options.show.as_ref().map(|show| {
            quote_spanned!(show.span()=> .show(|whole: &Self, op| {
                let _ = &whole.#ident;
                ::kernfs_attr::derive::show(op, (#show)(whole))
            }))
        });
        let store = options.store.as_ref().map(|store| {
            quote_spanned!(store.span()=> .store(|whole: &Self, op| {
                let _ = &whole.#ident;
                ::kernfs_attr::derive::store(whole, op, #check, #store)
            }))
        });
        return quote!(#show #store);
    }
    let require = match (reads, writes) {
        (true, false) => quote!(read_only),
        (false, _) => quote!(write_only),
        (true, true) => quote!(read_write),
    };
    let attribute = quote_spanned! {ty=>
        .attribute(|whole: &Self| ::kernfs_attr::derive::#require(&whole.#ident))
    };
    if options.store.is_none() && options.range.is_none() {
        return attribute;
    }
    let store = match &options.store {
        Some(store) => quote!(#store),
        None => quote!(|_, _| ::core::result::Result::Ok(())),
    };
    quote_spanned! {ty=>
        #attribute
        .store(|whole: &Self, op| {
            ::kernfs_attr::derive::store_checked(whole, &whole.#ident, op, #check, #store)
        })
    }
}

/// Adds what files and groups have in common.
fn describe(entry: &mut TokenStream, field: &Field, options: &Options) {
    let documentation = documentation(&field.attrs);
    if !documentation.is_empty() {
        entry.extend(quote!(.describe(#documentation)));
    }
    if let Some(visible) = &options.visible {
        entry.extend(quote_spanned!(visible.span()=> .visible(|whole: &Self| (#visible)(whole))));
    }
}
