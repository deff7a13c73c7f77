//! What the derive macros refuse, and how they tell: which field, and what to do.

#[test]
fn misuse_does_not_compile() {
    trybuild::TestCases::new().compile_fail("tests/compile_fail/*.rs");
}
