//! Any bytes as a request of the kernel: parsed, or refused, and read to the end.
//!
//! Besides the bytes as they come, the same bytes with a header that fits, so that the bodies of all
//! operations are reached.

#![no_main]

use fuse_session::op::Operation;
use fuse_session::wire::parse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    read(bytes);
    if let Some((&opcode, body)) = bytes.split_first() {
        let mut message = Vec::with_capacity(HEADER + body.len());
        message.extend_from_slice(&u32::try_from(HEADER + body.len()).unwrap_or(0).to_ne_bytes());
        message.extend_from_slice(&u32::from(opcode).to_ne_bytes());
        message.extend_from_slice(&1u64.to_ne_bytes());
        message.extend_from_slice(&1u64.to_ne_bytes());
        message.resize(HEADER, 0);
        message.extend_from_slice(body);
        read(&message);
    }
});

/// The size of `struct fuse_in_header`.
const HEADER: usize = 40;

/// Parses, and looks at everything that was found.
fn read(message: &[u8]) {
    match parse(message) {
        Ok((request, operation)) => {
            assert_ne!(request.unique, 0);
            if let Operation::Forget(forgets) = operation {
                assert!(forgets.count() * 8 <= message.len());
            } else {
                let _ = format!("{operation:?}");
            }
        }
        Err(error) => {
            let _ = (error.unique(), error.to_string());
        }
    }
}
