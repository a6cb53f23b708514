//! To be described by what it holds.
