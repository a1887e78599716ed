//! The exceptions of `glossator.errors`, and the one map onto them.

use glossator_core::Error;
use pyo3::create_exception;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;

create_exception!(
    glossator.errors,
    GlossatorError,
    PyException,
    "An error whose one line names the file, the field and the remedy."
);
create_exception!(
    glossator.errors,
    InputError,
    GlossatorError,
    "Something that the caller can mend: an argument, a file, a setting."
);
create_exception!(
    glossator.errors,
    CorruptIndexError,
    GlossatorError,
    "A file of an index is not what its manifest says it is."
);

/// Carries a core error to where it becomes an exception.
pub struct CoreError(Error);

impl From<Error> for CoreError {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl From<CoreError> for PyErr {
    fn from(CoreError(error): CoreError) -> Self {
        let text = error.to_string();
        match error {
            Error::Input(_) | Error::Io { .. } => InputError::new_err(text),
            Error::Corrupt { .. } => CorruptIndexError::new_err(text),
        }
    }
}

/// A result whose error is a core error on its way out.
pub type CoreResult<T> = Result<T, CoreError>;

/// Refuses an array that is not laid out row by row.
pub fn contiguous<T>(name: &str, slice: Result<T, numpy::AsSliceError>) -> PyResult<T> {
    slice.map_err(|_| InputError::new_err(format!("`{name}` must be a C-contiguous array")))
}
