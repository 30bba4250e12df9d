//! The tarpc services and their messages.

pub mod data;
pub mod meta;
pub mod version;
