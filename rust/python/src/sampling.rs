//! `glossator_core::Examples` for Python.

use glossator_core::{Examples, Plan};
use numpy::IntoPyArray;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::errors::InputError;

/// A plan from the JSON of `glossator.sampling.SamplingPlan`.
pub fn plan(json: &str) -> PyResult<Plan> {
    serde_json::from_str(json).map_err(|e| InputError::new_err(format!("`plan`: {e}")))
}

/// The columns by name; those of `W` values a row are flat.
pub fn columns(py: Python<'_>, examples: Examples) -> PyResult<Bound<'_, PyDict>> {
    let columns = PyDict::new(py);
    columns.set_item("latent", examples.latent.into_pyarray(py))?;
    columns.set_item("start", examples.start.into_pyarray(py))?;
    columns.set_item("tokens", examples.tokens.into_pyarray(py))?;
    columns.set_item("activations", examples.activations.into_pyarray(py))?;
    columns.set_item("decile", examples.decile.into_pyarray(py))?;
    columns.set_item("split", examples.split.into_pyarray(py))?;
    columns.set_item("kind", examples.kind.into_pyarray(py))?;
    columns.set_item("document", examples.document.into_pyarray(py))?;
    columns.set_item("document_start", examples.document_start.into_pyarray(py))?;
    columns.set_item("mask", examples.mask.into_pyarray(py))?;
    let shortfalls = examples.shortfalls.iter();
    let rows: Vec<(u32, &str, usize, usize)> = shortfalls
        .map(|s| (s.latent, s.what, s.wanted, s.found))
        .collect();
    columns.set_item("shortfalls", rows)?;
    Ok(columns)
}
