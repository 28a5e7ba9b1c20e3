//! The one integration binary: DataFusion is linked once.
//!
//! Enters: the library and the built program. Leaves: nothing. Always holds: a test writes below
//! temporary folders only, and each file says what it holds true.

mod slt;
mod tidy;

mod tpch;
