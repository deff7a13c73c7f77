//! The sixteen properties of a complete severing, P1 to P16, each a test of that name.
//!
//! What the type system guarantees of P1 and P10 is tested in `compile_fail`.

mod attaching;
mod cost;
mod fixture;
mod severing;
mod waiting;
