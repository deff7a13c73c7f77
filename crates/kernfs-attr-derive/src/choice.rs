//! `#[derive(Choice)]`.

use std::collections::HashMap;

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Data, DeriveInput, Error, Fields, LitStr, Result, Variant};

use crate::names::check_unique;

pub(crate) fn derive(input: &DeriveInput) -> Result<TokenStream> {
    let Data::Enum(data) = &input.data else {
        return Err(Error::new_spanned(
            &input.ident,
            format!("`{}` is no enum: a choice is one word of several", input.ident),
        ));
    };
    if data.variants.is_empty() {
        return Err(Error::new_spanned(
            &input.ident,
            format!("`{}` has no variants: there is nothing to choose", input.ident),
        ));
    }
    let style = style(input)?;
    let mut names = HashMap::new();
    let mut choices = Vec::new();
    for variant in &data.variants {
        let word = word(variant)?;
        check_unique(&mut names, &word, "variants", &variant.ident)?;
        let ident = &variant.ident;
        choices.push(quote!((Self::#ident, #word)));
    }
    let ident = &input.ident;
    let (impl_generics, ty_generics, where_clause) = input.generics.split_for_impl();
    Ok(quote! {
        impl #impl_generics ::kernfs_attr::Choice for #ident #ty_generics #where_clause {
            const CHOICES: &'static [(Self, &'static str)] = &[#(#choices),*];
            const STYLE: ::kernfs_attr::ChoiceStyle = ::kernfs_attr::ChoiceStyle::#style;
        }
    })
}

fn style(input: &DeriveInput) -> Result<TokenStream> {
    let mut style = quote!(Bracketed);
    for attribute in input.attrs.iter().filter(|attribute| attribute.path().is_ident("choice")) {
        attribute.parse_nested_meta(|meta| {
            if !meta.path.is_ident("plain") {
                return Err(meta.error("on the enum there is only `plain`"));
            }
            style = quote!(Plain);
            Ok(())
        })?;
    }
    Ok(style)
}

/// Returns the word of a variant.
fn word(variant: &Variant) -> Result<String> {
    if !matches!(variant.fields, Fields::Unit) {
        return Err(Error::new_spanned(
            variant,
            format!("variant `{}` has fields: a choice is a word", variant.ident),
        ));
    }
    let mut word = snake_case(&variant.ident.to_string());
    for attribute in variant.attrs.iter().filter(|attribute| attribute.path().is_ident("choice")) {
        attribute.parse_nested_meta(|meta| {
            if !meta.path.is_ident("name") {
                return Err(meta.error("on a variant there is only `name = \"...\"`"));
            }
            let name: LitStr = meta.value()?.parse()?;
            word = name.value();
            let odd = |c: char| c.is_whitespace() || c == '[' || c == ']' || c == '\0';
            if word.is_empty() || word.contains(odd) {
                let message = format!(
                    "`{word}` is no word for variant `{}`: no blanks, no brackets",
                    variant.ident
                );
                return Err(Error::new(name.span(), message));
            }
            Ok(())
        })?;
    }
    Ok(word)
}

fn snake_case(name: &str) -> String {
    let mut word = String::new();
    for (index, c) in name.chars().enumerate() {
        if c.is_uppercase() && index > 0 {
            word.push('_');
        }
        word.extend(c.to_lowercase());
    }
    word
}
