//! marmot
fn main() {}
