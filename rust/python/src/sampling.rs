//! `glossator_core::Plan` and `glossator_core::Examples` for Python.

use glossator_core::Examples;
use numpy::{IntoPyArray, PyArrayMethods};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::errors::InputError;

/// A plan, read once.
#[pyclass(module = "glossator._core", frozen)]
pub struct Plan(pub glossator_core::Plan);

#[pymethods]
impl Plan {
    /// From the JSON of `glossator.sampling.SamplingPlan`.
    #[staticmethod]
    #[pyo3(signature = (json: "str") -> "Plan")]
    fn read(json: &str) -> PyResult<Self> {
        let plan = serde_json::from_str(json);
        plan.map(Self)
            .map_err(|e| InputError::new_err(format!("`plan`: {e}")))
    }
}

/// The columns by name; those of `W` values a row have two dimensions.
pub fn columns(py: Python<'_>, examples: Examples) -> PyResult<Bound<'_, PyDict>> {
    let columns = PyDict::new(py);
    let shape = [examples.latent.len(), examples.length];
    columns.set_item(intern!(py, "latent"), examples.latent.into_pyarray(py))?;
    columns.set_item(intern!(py, "start"), examples.start.into_pyarray(py))?;
    columns.set_item(
        intern!(py, "tokens"),
        examples.tokens.into_pyarray(py).reshape(shape)?,
    )?;
    columns.set_item(
        intern!(py, "activations"),
        examples.activations.into_pyarray(py).reshape(shape)?,
    )?;
    columns.set_item(intern!(py, "decile"), examples.decile.into_pyarray(py))?;
    columns.set_item(intern!(py, "split"), examples.split.into_pyarray(py))?;
    columns.set_item(intern!(py, "kind"), examples.kind.into_pyarray(py))?;
    columns.set_item(intern!(py, "document"), examples.document.into_pyarray(py))?;
    columns.set_item(
        intern!(py, "document_start"),
        examples.document_start.into_pyarray(py).reshape(shape)?,
    )?;
    columns.set_item(
        intern!(py, "mask"),
        examples.mask.into_pyarray(py).reshape(shape)?,
    )?;
    let rows: Vec<(u32, &str, usize, usize)> = examples
        .shortfalls
        .iter()
        .map(|s| (s.latent, s.what, s.wanted, s.found))
        .collect();
    columns.set_item(intern!(py, "shortfall_rows"), rows)?;
    Ok(columns)
}
