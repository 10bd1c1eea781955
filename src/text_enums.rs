//! Enums whose values have a text each: labels of metrics, fields of the audit log, purposes of keys.

macro_rules! text_enums {
    ($(
        $(#[$meta:meta])*
        enum $name:ident { $($(#[$doc:meta])* $value:ident = $text:literal,)+ }
    )+) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub enum $name { $($(#[$doc])* $value,)+ }

        impl $name {
            /// In declaration order.
            pub const ALL: [Self; [$(Self::$value),+].len()] = [$(Self::$value),+];

            pub fn as_str(self) -> &'static str {
                match self { $(Self::$value => $text,)+ }
            }
        }
    )+};
}
pub(crate) use text_enums;
