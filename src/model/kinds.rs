//! The macro that makes an enum, and everything that follows from it, of a list of kinds.

use super::Problem;

/// Makes an enum of lines `"key in YAML": Variant(Settings)`, each with the description that editors show. Serde and
/// the JSON schema know the variants by their keys. The enum derefs to the trait named behind it, which the settings of
/// every kind implement. A variant below `never in a file` has no key in YAML; its name is only for messages. The name
/// behind the trait is that of settings from a user's crate: these are in no list, and carry their key.
macro_rules! kinds {
    (
        $(#[$about:meta])+
        $config:ident: $answers:ident, $own:ident {
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
            /// A kind of a user's own crate: its key in YAML, and its settings.
            #[serde(skip)]
            Own($crate::model::kinds::Own<Box<dyn $own>>),
        }

        /// Settings of a kind that is in no list: those of a user's own crate. Everything that answers as settings do and
        /// can be copied is that.
        pub trait $own: $answers + 'static {
            #[doc(hidden)]
            fn boxed(&self) -> Box<dyn $own>;
        }

        impl<S: $answers + Clone + 'static> $own for S {
            fn boxed(&self) -> Box<dyn $own> {
                Box::new(self.clone())
            }
        }

        impl Clone for Box<dyn $own> {
            fn clone(&self) -> Self {
                (**self).boxed()
            }
        }

        impl $config {
            /// All built-in kinds, as written in YAML.
            pub const KINDS: &'static [&'static str] = &[$($(#[cfg($when)])? $name,)+];

            /// Settings of a user's own crate, with their key in YAML.
            #[must_use]
            pub fn own(kind: &'static str, settings: impl $own) -> $config {
                $config::Own($crate::model::kinds::Own { kind, settings: settings.boxed() })
            }

            /// The kind: its key in YAML, or of one that is never in a file the name for people.
            #[must_use]
            pub fn kind_name(&self) -> &'static str {
                match self {
                    $($(#[cfg($when)])? $config::$kind(_) => $name,)+
                    $($config::$inner(_) => $inner_name,)*
                    $config::Own(own) => own.kind,
                }
            }
        }

        impl std::ops::Deref for $config {
            type Target = dyn $answers;

            fn deref(&self) -> &Self::Target {
                match self {
                    $($(#[cfg($when)])? $config::$kind(settings) => settings,)+
                    $($config::$inner(settings) => settings,)*
                    $config::Own(own) => &*own.settings,
                }
            }
        }

        impl std::ops::DerefMut for $config {
            fn deref_mut(&mut self) -> &mut Self::Target {
                match self {
                    $($(#[cfg($when)])? $config::$kind(settings) => settings,)+
                    $($config::$inner(settings) => settings,)*
                    $config::Own(own) => &mut *own.settings,
                }
            }
        }
    };
}

pub(crate) use kinds;

/// A kind of a user's own crate.
#[derive(Clone, Debug)]
pub struct Own<S> {
    /// Its key in YAML.
    pub kind: &'static str,
    /// Its settings.
    pub settings: S,
}

/// Problems whose fields count from a kind's key, as problems of the node that it stands in: `path` of a `file` is
/// `file.path`.
pub(crate) fn placed(kind: &str, problems: Vec<Problem>) -> Vec<Problem> {
    let place = |problem: Problem| {
        let field = field_of(kind, &problem.field);
        problem.field(field)
    };
    problems.into_iter().map(place).collect()
}

/// A field that counts from a kind's key, as a field of the node.
pub(crate) fn field_of(kind: &str, field: &str) -> String {
    match field {
        "" => kind.to_owned(),
        _ => format!("{kind}.{field}"),
    }
}
