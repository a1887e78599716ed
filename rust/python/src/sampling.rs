//! `glossator_core::Plan` and `glossator_core::Examples` for Python.

use glossator_core::{Examples, NearestTable, NeighbourTable};
use numpy::{
    IntoPyArray, PyArray1, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2,
    PyUntypedArrayMethods,
};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::errors::{CoreError, InputError, contiguous};
use crate::index::Index;

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

/// Commonest peak tokens of all latents, how many each has, and its silent windows that hold one or
/// none.
#[pyfunction]
#[pyo3(signature = (index: "Index", latents: "NDArray[np.uint32]", seed: "int")
    -> "dict[str, NDArray[Any]]")]
pub fn silent_strata<'py>(
    py: Python<'py>,
    index: &Index,
    latents: PyReadonlyArray1<'py, u32>,
    seed: u64,
) -> PyResult<Bound<'py, PyDict>> {
    let latents = contiguous("latents", latents.as_slice())?;
    let strata = py
        .detach(|| index.0.silent_strata(latents, seed))
        .map_err(CoreError::from)?;
    let columns = PyDict::new(py);
    columns.set_item("tokens", strata.tokens.into_pyarray(py))?;
    columns.set_item("n_tokens", strata.n_tokens.into_pyarray(py))?;
    columns.set_item("holding", strata.holding.into_pyarray(py))?;
    columns.set_item("without", strata.without.into_pyarray(py))?;
    Ok(columns)
}

/// Whether the windows that hold these positions hold one of some tokens.
#[pyfunction]
#[pyo3(signature = (index: "Index", tokens: "NDArray[np.uint32]", positions: "NDArray[np.uint64]")
    -> "NDArray[np.bool_]")]
pub fn holds<'py>(
    py: Python<'py>,
    index: &Index,
    tokens: PyReadonlyArray1<'py, u32>,
    positions: PyReadonlyArray1<'py, u64>,
) -> PyResult<Bound<'py, PyArray1<bool>>> {
    let tokens = contiguous("tokens", tokens.as_slice())?;
    let positions = contiguous("positions", positions.as_slice())?;
    let found = py
        .detach(|| index.0.holds(tokens, positions))
        .map_err(CoreError::from)?;
    Ok(found.into_pyarray(py))
}
