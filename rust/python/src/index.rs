//! `glossator_core::Index` for Python.

use std::collections::BTreeMap;
use std::path::PathBuf;

use glossator_core::{BOUNDARIES, Sources, Summary, Unit};
use numpy::{
    IntoPyArray, PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2,
    PyUntypedArrayMethods, ToPyArray,
};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::errors::{CoreError, CoreResult, contiguous};
use crate::sampling::{self, Plan};

/// A list of numbers and a list of their values.
type Pair<'py, A, B> = (Bound<'py, PyArray1<A>>, Bound<'py, PyArray1<B>>);
/// Three lists.
type Triple<'py, A, B, C> = (
    Bound<'py, PyArray1<A>>,
    Bound<'py, PyArray1<B>>,
    Bound<'py, PyArray1<C>>,
);

/// An open index.
#[pyclass(module = "glossator._core", frozen)]
pub struct Index(pub glossator_core::Index);

#[pymethods]
impl Index {
    /// Open the index in a folder; one whose build has not reached its end only if `unfinished`.
    #[staticmethod]
    #[pyo3(signature = (path: "str", *, unfinished: "bool") -> "Index")]
    fn open(py: Python<'_>, path: PathBuf, unfinished: bool) -> CoreResult<Self> {
        py.detach(|| glossator_core::Index::open(&path, unfinished))
            .map(Self)
            .map_err(CoreError::from)
    }

    /// Number of latents.
    #[getter]
    fn n_latents(&self) -> u32 {
        self.0.n_latents()
    }

    /// Number of unmasked tokens.
    #[getter]
    fn n_tokens(&self) -> u64 {
        self.0.n_tokens()
    }

    /// Number of contexts.
    #[getter]
    fn n_contexts(&self) -> u64 {
        self.0.n_contexts()
    }

    /// Number of postings.
    #[getter]
    fn nnz(&self) -> u64 {
        self.0.nnz()
    }

    /// Tokens in a context.
    #[getter]
    fn context_length(&self) -> usize {
        self.0.context_length()
    }

    /// Tokens in a window.
    #[getter]
    fn window(&self) -> usize {
        self.0.window()
    }

    /// Number of the first context.
    #[getter]
    fn first_context(&self) -> u64 {
        self.0.parameters().first_context
    }

    /// Contexts in a full segment.
    #[getter]
    fn segment_contexts(&self) -> u64 {
        self.0.parameters().segment_contexts
    }

    /// Seed of the division of documents into sides.
    #[getter]
    fn split_seed(&self) -> u64 {
        self.0.parameters().split_seed
    }

    /// Whether the build reached its end.
    #[getter]
    fn complete(&self) -> bool {
        self.0.complete()
    }

    /// Number of segments.
    #[getter]
    fn n_segments(&self) -> usize {
        self.0.segments().len()
    }

    /// Free text that describes the index.
    #[getter]
    fn attributes(&self) -> BTreeMap<String, String> {
        self.0.parameters().attributes.clone()
    }

    /// Whether every activation is kept in bf16.
    #[getter]
    fn lossless(&self) -> bool {
        self.0.lossless()
    }

    /// A hash of the whole content, 16 hexadecimal digits.
    #[getter]
    fn hash(&self) -> CoreResult<String> {
        Ok(self.0.hash()?)
    }

    /// Postings of each latent.
    #[pyo3(signature = () -> "NDArray[np.uint64]")]
    fn counts<'py>(&self, py: Python<'py>) -> CoreResult<Bound<'py, PyArray1<u64>>> {
        Ok(py.detach(|| self.0.counts())?.into_pyarray(py))
    }

    /// Positions and activations of one latent.
    #[pyo3(signature = (latent: "int") -> "tuple[NDArray[np.uint64], NDArray[np.float32]]")]
    fn postings<'py>(&self, py: Python<'py>, latent: u32) -> CoreResult<Pair<'py, u64, f32>> {
        let postings = py.detach(|| self.0.postings(latent))?;
        Ok((
            postings.positions.into_pyarray(py),
            postings.activations.into_pyarray(py),
        ))
    }

    /// Minimum, nine boundaries and maximum of each latent's window maxima.
    #[pyo3(signature = () -> "NDArray[np.float32]")]
    fn deciles<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let values = py.detach(|| self.0.deciles()).map_err(CoreError::from)?;
        let rows = values.len() / BOUNDARIES;
        values.into_pyarray(py).reshape([rows, BOUNDARIES])
    }

    /// Starts, maxima and deciles of one latent's windows.
    #[pyo3(signature = (latent: "int")
        -> "tuple[NDArray[np.uint64], NDArray[np.float32], NDArray[np.uint8]]")]
    fn windows<'py>(&self, py: Python<'py>, latent: u32) -> CoreResult<Triple<'py, u64, f32, u8>> {
        let windows = py.detach(|| self.0.windows(latent))?;
        Ok((
            windows.starts.into_pyarray(py),
            windows.maxima.into_pyarray(py),
            windows.deciles.into_pyarray(py),
        ))
    }

    /// Latents, codes, their activations and counts of windows.
    #[pyo3(signature = (latents: "NDArray[np.uint32]") -> "dict[str, NDArray[Any]]")]
    fn histogram<'py>(
        &self,
        py: Python<'py>,
        latents: PyReadonlyArray1<'py, u32>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let latents = contiguous("latents", latents.as_slice())?;
        let histogram = py
            .detach(|| self.0.histogram(latents))
            .map_err(CoreError::from)?;
        let columns = PyDict::new(py);
        columns.set_item("latent", histogram.latent.into_pyarray(py))?;
        columns.set_item("code", histogram.code.into_pyarray(py))?;
        columns.set_item("activation", histogram.activation.into_pyarray(py))?;
        columns.set_item("windows", histogram.count.into_pyarray(py))?;
        Ok(columns)
    }

    /// The `n` strongest windows of each latent, of one side or of all.
    #[pyo3(signature = (latents: "NDArray[np.uint32]", n: "int", side: "int | None")
        -> "dict[str, NDArray[Any]]")]
    fn top<'py>(
        &self,
        py: Python<'py>,
        latents: PyReadonlyArray1<'py, u32>,
        n: usize,
        side: Option<u8>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let latents = contiguous("latents", latents.as_slice())?;
        let top = py
            .detach(|| self.0.top(latents, n, side))
            .map_err(CoreError::from)?;
        let columns = PyDict::new(py);
        columns.set_item("latent", top.latent.into_pyarray(py))?;
        columns.set_item("start", top.start.into_pyarray(py))?;
        columns.set_item("activation", top.activation.into_pyarray(py))?;
        columns.set_item("exact", top.exact.into_pyarray(py))?;
        Ok(columns)
    }

    /// Whether a latent is active in the windows that hold these positions.
    #[pyo3(signature = (latent: "int", positions: "NDArray[np.uint64]") -> "NDArray[np.bool_]")]
    fn active<'py>(
        &self,
        py: Python<'py>,
        latent: u32,
        positions: PyReadonlyArray1<'py, u64>,
    ) -> PyResult<Bound<'py, PyArray1<bool>>> {
        let positions = contiguous("positions", positions.as_slice())?;
        let active = py
            .detach(|| self.0.active(latent, positions))
            .map_err(CoreError::from)?;
        Ok(active.into_pyarray(py))
    }

    /// Tokens, documents and mask of some contexts, flat.
    #[pyo3(signature = (ids: "NDArray[np.uint64]")
        -> "tuple[NDArray[np.uint32], NDArray[np.uint64], NDArray[np.bool_]]")]
    fn contexts<'py>(
        &self,
        py: Python<'py>,
        ids: PyReadonlyArray1<'py, u64>,
    ) -> PyResult<Triple<'py, u32, u64, bool>> {
        let ids = contiguous("ids", ids.as_slice())?;
        let contexts = py
            .detach(|| self.0.contexts(ids))
            .map_err(CoreError::from)?;
        Ok((
            contexts.tokens.into_pyarray(py),
            contexts.documents.into_pyarray(py),
            contexts.mask.into_pyarray(py),
        ))
    }

    /// One latent's activations on `length` tokens from each start on, flat.
    #[pyo3(signature = (latent: "int", starts: "NDArray[np.uint64]", length: "int")
        -> "NDArray[np.float32]")]
    fn activations<'py>(
        &self,
        py: Python<'py>,
        latent: u32,
        starts: PyReadonlyArray1<'py, u64>,
        length: usize,
    ) -> PyResult<Bound<'py, PyArray1<f32>>> {
        let starts = contiguous("starts", starts.as_slice())?;
        let values = py
            .detach(|| self.0.activations(latent, starts, length))
            .map_err(CoreError::from)?;
        Ok(values.into_pyarray(py))
    }

    /// The side of every window.
    #[pyo3(signature = () -> "NDArray[np.uint8]")]
    fn sides<'py>(&self, py: Python<'py>) -> CoreResult<Bound<'py, PyArray1<u8>>> {
        Ok(py.detach(|| self.0.sides())?.to_pyarray(py))
    }

    /// Whether each window may be drawn for its side.
    #[pyo3(signature = () -> "NDArray[np.bool_]")]
    fn eligible<'py>(&self, py: Python<'py>) -> CoreResult<Bound<'py, PyArray1<bool>>> {
        Ok(py.detach(|| self.0.eligible())?.into_pyarray(py))
    }

    /// The share of score-side windows that are not eligible.
    #[pyo3(signature = () -> "float")]
    fn overlap_share(&self, py: Python<'_>) -> CoreResult<f64> {
        Ok(py.detach(|| self.0.overlap_share())?)
    }

    /// Counts of every latent, by name.
    #[pyo3(signature = () -> "dict[str, NDArray[Any]]")]
    fn summary<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let summary = py.detach(|| self.0.summary()).map_err(CoreError::from)?;
        summary_columns(py, summary)
    }

    /// The columns of the examples that a plan draws.
    #[pyo3(signature = (latents: "NDArray[np.uint32]", plan: "Plan", seed: "int",
        neighbours: "tuple[NDArray[np.uint32], NDArray[np.uint8] | None] | None",
        nearest: "tuple[NDArray[np.uint32], NDArray[np.uint64]] | None") -> "dict[str, Any]")]
    fn sample<'py>(
        &self,
        py: Python<'py>,
        latents: PyReadonlyArray1<'py, u32>,
        plan: &Plan,
        seed: u64,
        neighbours: Option<sampling::Neighbours<'py>>,
        nearest: Option<sampling::Nearest<'py>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let latents = contiguous("latents", latents.as_slice())?;
        let sources = Sources {
            neighbours: neighbours
                .as_ref()
                .map(sampling::neighbour_table)
                .transpose()?,
            nearest: nearest.as_ref().map(sampling::nearest_table).transpose()?,
        };
        let examples = py
            .detach(|| self.0.sample(latents, &plan.0, seed, &sources))
            .map_err(CoreError::from)?;
        sampling::columns(py, examples)
    }

    /// The figures of some latents and `k` neighbours of each, flat.
    #[pyo3(signature = (latents: "NDArray[np.uint32]", neighbours: "NDArray[np.uint32]")
        -> "dict[str, NDArray[Any]]")]
    fn coactivation<'py>(
        &self,
        py: Python<'py>,
        latents: PyReadonlyArray1<'py, u32>,
        neighbours: PyReadonlyArray2<'py, u32>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let k = neighbours.shape()[1];
        let latents = contiguous("latents", latents.as_slice())?;
        let neighbours = contiguous("neighbours", neighbours.as_slice())?;
        let found = py
            .detach(|| self.0.coactivation(latents, neighbours, k))
            .map_err(CoreError::from)?;
        let columns = PyDict::new(py);
        columns.set_item("both", found.both.into_pyarray(py))?;
        columns.set_item("jaccard", found.jaccard.into_pyarray(py))?;
        columns.set_item("npmi", found.npmi.into_pyarray(py))?;
        columns.set_item("given", found.given.into_pyarray(py))?;
        columns.set_item("given_back", found.given_back.into_pyarray(py))?;
        columns.set_item("shared_tokens", found.shared_tokens.into_pyarray(py))?;
        Ok(columns)
    }

    /// The columns of the neighbours by co-occurrence, flat.
    #[pyo3(signature = (latents: "NDArray[np.uint32]", top: "int", windows: "bool", memory: "int")
        -> "dict[str, NDArray[Any]]")]
    fn cooccurrence<'py>(
        &self,
        py: Python<'py>,
        latents: PyReadonlyArray1<'py, u32>,
        top: usize,
        windows: bool,
        memory: u64,
    ) -> PyResult<Bound<'py, PyDict>> {
        let latents = contiguous("latents", latents.as_slice())?;
        let unit = if windows { Unit::Window } else { Unit::Token };
        let found = py
            .detach(|| self.0.cooccurrence(latents, top, unit, memory))
            .map_err(CoreError::from)?;
        let columns = PyDict::new(py);
        columns.set_item("neighbours", found.neighbours.into_pyarray(py))?;
        columns.set_item("jaccard", found.jaccard.into_pyarray(py))?;
        columns.set_item("both", found.both.into_pyarray(py))?;
        columns.set_item("given", found.given.into_pyarray(py))?;
        columns.set_item("given_back", found.given_back.into_pyarray(py))?;
        Ok(columns)
    }

    /// Decode some latents' postings in stored order; returns how many. For measuring.
    #[pyo3(signature = (latents: "NDArray[np.uint32]") -> "int")]
    fn decode(&self, py: Python<'_>, latents: PyReadonlyArray1<'_, u32>) -> PyResult<u64> {
        let latents = contiguous("latents", latents.as_slice())?;
        let decoded = py.detach(|| self.0.decode(latents));
        Ok(decoded.map_err(CoreError::from)?)
    }

    /// Compare the checksum of every file of a segment.
    #[pyo3(signature = (segment: "int") -> "None")]
    fn verify_segment(&self, py: Python<'_>, segment: usize) -> CoreResult<()> {
        Ok(py.detach(|| self.0.verify_segment(segment))?)
    }
}

/// The side of each document: 0 explain, 1 score.
#[pyfunction]
#[pyo3(signature = (document_ids: "NDArray[np.uint64]", split_seed: "int")
    -> "NDArray[np.uint8]")]
pub fn document_sides<'py>(
    py: Python<'py>,
    document_ids: PyReadonlyArray1<'py, u64>,
    split_seed: u64,
) -> PyResult<Bound<'py, PyArray1<u8>>> {
    let ids = contiguous("document_ids", document_ids.as_slice())?;
    let side = |&id: &u64| glossator_core::document_side(id, split_seed);
    let sides: Vec<u8> = py.detach(|| ids.iter().map(side).collect());
    Ok(sides.into_pyarray(py))
}

/// A summary as columns, by name.
pub(crate) fn summary_columns(py: Python<'_>, summary: Summary) -> PyResult<Bound<'_, PyDict>> {
    let columns = PyDict::new(py);
    for (name, column) in [
        ("count", summary.count),
        ("windows", summary.windows),
        ("windows_explain", summary.windows_explain),
        ("windows_scoring", summary.windows_scoring),
        ("documents", summary.documents),
        ("documents_explain", summary.documents_explain),
        ("documents_scoring", summary.documents_scoring),
    ] {
        columns.set_item(name, column.into_pyarray(py))?;
    }
    columns.set_item("max_activation", summary.max_activation.into_pyarray(py))?;
    Ok(columns)
}
