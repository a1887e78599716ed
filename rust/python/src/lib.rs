//! The Python face of `glossator-core`: arguments in, arrays out, errors mapped.
#![deny(missing_docs)]
#![allow(
    clippy::needless_pass_by_value,
    clippy::too_many_arguments,
    reason = "arguments are Python's: owned, and as many as the method has"
)]

mod errors;
mod index;
mod neighbours;
mod rules;
mod sampling;
mod select;
mod writer;

/// The compiled core of glossator; `glossator.index` and its neighbours are its documented face.
#[pyo3::pymodule]
mod _core {
    #[pymodule_export]
    use crate::errors::{CorruptIndexError, GlossatorError, InputError};
    #[pymodule_export]
    use crate::index::{Index, document_sides};
    #[pymodule_export]
    use crate::neighbours::neighbours;
    #[pymodule_export]
    use crate::rules::{RuleChecker, RuleLearner};
    #[pymodule_export]
    use crate::sampling::{Plan, holds, silent_strata};
    #[pymodule_export]
    use crate::select::{Selector, add_statistics};
    #[pymodule_export]
    use crate::writer::{IndexWriter, compact, join};

    /// Says in one line what would otherwise be an illegal instruction later.
    #[pymodule_init]
    fn init(_module: &pyo3::Bound<'_, pyo3::types::PyModule>) -> pyo3::PyResult<()> {
        if super::has_its_instructions() {
            return Ok(());
        }
        Err(pyo3::exceptions::PyImportError::new_err(
            "this build of glossator needs a processor with AVX2 and BMI2 (Haswell, Zen or later); \
             build it from source with RUSTFLAGS='-C target-cpu=native'",
        ))
    }

    #[pymodule_export]
    #[allow(non_upper_case_globals, reason = "Python's own name for it")]
    const __version__: &str = env!("CARGO_PKG_VERSION");
}

/// Whether the processor has what `.cargo/config.toml` lets the compiler use.
#[cfg(all(target_arch = "x86_64", target_feature = "avx2"))]
fn has_its_instructions() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    // `is_x86_feature_detected` is true by definition in a build that uses the feature.
    #[allow(unused_unsafe)] // a safe call since Rust 1.93
    // SAFETY: every processor of this architecture has the instruction.
    let features = unsafe {
        if __cpuid(0).eax < 7 {
            return false;
        }
        __cpuid_count(7, 0).ebx
    };
    let (avx2, bmi1, bmi2) = (1 << 5, 1 << 3, 1 << 8);
    features & (avx2 | bmi1 | bmi2) == avx2 | bmi1 | bmi2
}

/// Other builds use what every processor of their architecture has.
#[cfg(not(all(target_arch = "x86_64", target_feature = "avx2")))]
fn has_its_instructions() -> bool {
    true
}
