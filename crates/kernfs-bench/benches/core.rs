//! Prints the figures of the core: `cargo bench -p kernfs-bench --bench core [-- --quick] [SECTION]`.
//!
//! Run by `cargo test --benches`, which does not say `--bench`, it takes one short round of each.

use std::process::ExitCode;

use kernfs_bench::{Effort, SECTIONS, table};

fn main() -> ExitCode {
    let mut effort = Effort::SMOKE;
    let mut only = Vec::new();
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--bench" => effort = Effort::FULL,
            "--quick" => effort = Effort::QUICK,
            section if SECTIONS.iter().any(|(name, _)| *name == section) => only.push(argument),
            other => {
                let names: Vec<_> = SECTIONS.iter().map(|(name, _)| *name).collect();
                eprintln!("core: {other}: not one of --quick, {}", names.join(", "));
                return ExitCode::from(2);
            }
        }
    }
    table::print_head();
    for (name, measure) in SECTIONS {
        if only.is_empty() || only.iter().any(|wanted| wanted == name) {
            table::print_section(name, &measure(effort));
        }
    }
    ExitCode::SUCCESS
}
