//! An AoE target that keeps its promises.

fn main() {}
