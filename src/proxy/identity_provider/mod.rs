//! OpenID Connect client of the issuer: discovery, login and recheck.

mod issuer;

pub use issuer::{Credentials, Issuer, LoggedIn, LoginError, RecheckError};
