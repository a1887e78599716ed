//! The Python face of `glossator-core`: arguments in, arrays out, errors mapped.
#![deny(missing_docs)]
#![allow(
    clippy::needless_pass_by_value,
    clippy::too_many_arguments,
    reason = "arguments are Python's: owned, and as many as the method has"
)]

mod errors;
mod index;
mod rules;
mod sampling;
mod writer;

/// The compiled core of glossator; `glossator.index` and its neighbours are its documented face.
#[pyo3::pymodule]
mod _core {
    #[pymodule_export]
    use crate::errors::{CorruptIndexError, GlossatorError, InputError};
    #[pymodule_export]
    use crate::index::{Index, document_sides};
    #[pymodule_export]
    use crate::rules::{RuleChecker, RuleLearner};
    #[pymodule_export]
    use crate::sampling::Plan;
    #[pymodule_export]
    use crate::writer::{IndexWriter, compact, join};

    #[pymodule_export]
    #[allow(non_upper_case_globals, reason = "Python's own name for it")]
    const __version__: &str = env!("CARGO_PKG_VERSION");
}
