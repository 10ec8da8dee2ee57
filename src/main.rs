//! The binary: parses the command line, runs it, maps errors to exit codes. The only place that exits.

fn main() {}
