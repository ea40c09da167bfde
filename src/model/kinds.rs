//! What follows from a list of kinds of settings.

/// Makes an enum of lines `"key in YAML": Variant(Settings)`, each with the words that editors show. It is read and
/// described by its keys, and everything else is asked of the settings themselves: they implement the trait named behind
/// the enum, which it derefs to. What stands behind `never in a file` has no key in YAML, only a name for people.
macro_rules! kinds {
    (
        $(#[$about:meta])+
        $config:ident: $answers:ident {
            $($(#[doc = $doc:literal])+ $(#[cfg($when:meta)])? $name:literal: $kind:ident($settings:ty),)+
        }
        never in a file {
            $($(#[doc = $inner_doc:literal])+ $inner_name:literal: $inner:ident($inner_settings:ty),)*
        }
    ) => {
        $(#[$about])+
        #[derive(Clone, Debug, serde::Deserialize, schemars::JsonSchema)]
        pub enum $config {
            $($(#[doc = $doc])+ $(#[cfg($when)])? #[serde(rename = $name)] $kind($settings),)+
            $($(#[doc = $inner_doc])+ #[serde(skip)] $inner($inner_settings),)*
        }

        impl $config {
            /// All built-in kinds, as written in YAML.
            pub const KINDS: &'static [&'static str] = &[$($(#[cfg($when)])? $name,)+];

            /// The name that stands in the list.
            fn listed(&self) -> &'static str {
                match self {
                    $($(#[cfg($when)])? $config::$kind(_) => $name,)+
                    $($config::$inner(_) => $inner_name,)*
                }
            }
        }

        impl std::ops::Deref for $config {
            type Target = dyn $answers;

            fn deref(&self) -> &Self::Target {
                match self {
                    $($(#[cfg($when)])? $config::$kind(settings) => settings,)+
                    $($config::$inner(settings) => settings,)*
                }
            }
        }

        impl std::ops::DerefMut for $config {
            fn deref_mut(&mut self) -> &mut Self::Target {
                match self {
                    $($(#[cfg($when)])? $config::$kind(settings) => settings,)+
                    $($config::$inner(settings) => settings,)*
                }
            }
        }
    };
}

pub(crate) use kinds;
