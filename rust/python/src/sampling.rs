//! `glossator_core::Plan` and `glossator_core::Examples` for Python.

use glossator_core::{Examples, NearestTable, NeighbourTable};
use numpy::{
    IntoPyArray, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2, PyUntypedArrayMethods,
};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::errors::{InputError, contiguous};

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

/// Ids of neighbours and their relations.
pub type Neighbours<'py> = (
    PyReadonlyArray2<'py, u32>,
    Option<PyReadonlyArray2<'py, u8>>,
);

/// Latents and the windows near to them.
pub type Nearest<'py> = (PyReadonlyArray1<'py, u32>, PyReadonlyArray2<'py, u64>);

/// A table of neighbours as the core reads it.
pub fn neighbour_table<'a>(given: &'a Neighbours<'_>) -> PyResult<NeighbourTable<'a>> {
    let (ids, relation) = given;
    let relation = relation
        .as_ref()
        .map(|codes| contiguous("neighbours.relation", codes.as_slice()));
    Ok(NeighbourTable {
        ids: contiguous("neighbours.ids", ids.as_slice())?,
        relation: relation.transpose()?,
        k: ids.shape()[1],
    })
}

/// A table of near windows as the core reads it.
pub fn nearest_table<'a>(given: &'a Nearest<'_>) -> PyResult<NearestTable<'a>> {
    let (latents, windows) = given;
    Ok(NearestTable {
        latents: contiguous("nearest.latents", latents.as_slice())?,
        windows: contiguous("nearest.windows", windows.as_slice())?,
        m: windows.shape()[1],
    })
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
    columns.set_item(intern!(py, "source"), examples.source.into_pyarray(py))?;
    columns.set_item(intern!(py, "rank"), examples.rank.into_pyarray(py))?;
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
