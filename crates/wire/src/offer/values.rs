//! Header values as types.
