//! `glossator_core::Writer` for Python.

use std::collections::BTreeMap;
use std::path::PathBuf;

use glossator_core::{
    Activity, Batch, Options, Parameters, Values, Writer, default_segment_contexts,
};
use numpy::{PyReadonlyArray1, PyReadonlyArray2, PyReadonlyArray3, PyUntypedArrayMethods};
use pyo3::prelude::*;

use crate::errors::{CoreError, CoreResult, InputError, contiguous};

/// Builds an index in a folder, or goes on with one; or those of several hookpoints at once.
#[pyclass(module = "glossator._core")]
pub struct IndexWriter(Writer);

/// Activations of any shape: float32, or the bits of bfloat16 as uint16.
#[derive(FromPyObject)]
pub enum Array3<'py> {
    F32(PyReadonlyArray3<'py, f32>),
    Bf16(PyReadonlyArray3<'py, u16>),
}

/// As [`Array3`], in one dimension.
#[derive(FromPyObject)]
pub enum Array1<'py> {
    F32(PyReadonlyArray1<'py, f32>),
    Bf16(PyReadonlyArray1<'py, u16>),
}

impl Array3<'_> {
    fn values(&self) -> PyResult<Values<'_>> {
        Ok(match self {
            Self::F32(array) => Values::F32(contiguous("activations", array.as_slice())?),
            Self::Bf16(array) => Values::Bf16(contiguous("activations", array.as_slice())?),
        })
    }
}

impl Array1<'_> {
    fn values(&self) -> PyResult<Values<'_>> {
        Ok(match self {
            Self::F32(array) => Values::F32(contiguous("activations", array.as_slice())?),
            Self::Bf16(array) => Values::Bf16(contiguous("activations", array.as_slice())?),
        })
    }
}

type Dense<'py> = (PyReadonlyArray3<'py, u32>, Array3<'py>);
type Sparse<'py> = (
    PyReadonlyArray1<'py, u64>,
    PyReadonlyArray1<'py, u64>,
    PyReadonlyArray1<'py, u32>,
    Array1<'py>,
);
type Sorted<'py> = (
    PyReadonlyArray1<'py, u64>,
    PyReadonlyArray1<'py, u32>,
    Array1<'py>,
);

#[pymethods]
impl IndexWriter {
    /// Open the folder; the arguments are those of `glossator.index.IndexWriter`.
    ///
    /// `hookpoints` is a hookpoint's name, its latents and its attributes, for each; an index without
    /// a folder of its own has the name "".
    #[new]
    #[pyo3(signature = (
        path: "str", *, hookpoints: "list[tuple[str, int, dict[str, str]]]", context_length: "int",
        window: "int", first_context: "int", segment_contexts: "int | None", split_seed: "int",
        lossless: "bool", durable: "bool", text: "str"
    ))]
    fn new(
        py: Python<'_>,
        path: PathBuf,
        hookpoints: Vec<(String, u32, BTreeMap<String, String>)>,
        context_length: u32,
        window: u32,
        first_context: u64,
        segment_contexts: Option<u64>,
        split_seed: u64,
        lossless: bool,
        durable: bool,
        text: String,
    ) -> CoreResult<Self> {
        let parameters = |n_latents, attributes: &BTreeMap<_, _>| Parameters {
            n_latents,
            context_length,
            window,
            first_context,
            segment_contexts: segment_contexts
                .unwrap_or_else(|| default_segment_contexts(context_length)),
            split_seed,
            lossless,
            text: text.clone(),
            attributes: attributes.clone(),
        };
        let options = Options { durable };
        let opened = py.detach(|| match hookpoints.as_slice() {
            [(name, n, attributes)] if name.is_empty() => {
                Writer::open_with(&path, parameters(*n, attributes), options)
            }
            hookpoints => {
                let all = hookpoints
                    .iter()
                    .map(|(name, n, attributes)| (name.clone(), parameters(*n, attributes)));
                Writer::open_many(&path, &all.collect::<Vec<_>>(), options)
            }
        });
        opened.map(Self).map_err(CoreError::from)
    }

    /// The first context that the index has not been given yet.
    #[getter]
    fn next_context(&self) -> u64 {
        self.0.next_context()
    }

    /// Where the next batch goes, unless it says so itself.
    #[getter]
    fn cursor(&self) -> u64 {
        self.0.cursor()
    }

    /// Contexts in a segment.
    #[getter]
    fn segment_contexts(&self) -> u64 {
        self.0.parameters().segment_contexts
    }

    /// Add contexts with the same number of entries for every token.
    ///
    /// One pair of latents and activations (float32, or the bits of bfloat16) per hookpoint.
    /// Documents are one per token, and all arrays C-contiguous.
    #[pyo3(signature = (
        tokens: "NDArray[np.uint32]",
        entries: "list[tuple[NDArray[np.uint32], NDArray[np.float32] | NDArray[np.uint16]]]",
        document_ids: "NDArray[np.uint64]", mask: "NDArray[np.bool_] | None", context: "int | None"
    ) -> "None")]
    fn add(
        &mut self,
        py: Python<'_>,
        tokens: PyReadonlyArray2<'_, u32>,
        entries: Vec<Dense<'_>>,
        document_ids: PyReadonlyArray2<'_, u64>,
        mask: Option<PyReadonlyArray2<'_, bool>>,
        context: Option<u64>,
    ) -> PyResult<()> {
        let activities = entries.iter().map(|(latents, activations)| {
            Ok(Activity::Dense {
                k: latents.shape()[2],
                latents: contiguous("latents", latents.as_slice())?,
                activations: activations.values()?,
            })
        });
        let activities = activities.collect::<PyResult<Vec<_>>>()?;
        self.add_batch(
            py,
            &tokens,
            &document_ids,
            mask.as_ref(),
            &activities,
            context,
        )
    }

    /// Add contexts with one entry per activation, in any order.
    ///
    /// One tuple of rows, offsets, latents and activations per hookpoint.
    #[pyo3(signature = (
        tokens: "NDArray[np.uint32]", entries: "list[tuple[Any, ...]]",
        document_ids: "NDArray[np.uint64]", mask: "NDArray[np.bool_] | None",
        context: "int | None"
    ) -> "None")]
    fn add_coo(
        &mut self,
        py: Python<'_>,
        tokens: PyReadonlyArray2<'_, u32>,
        entries: Vec<Sparse<'_>>,
        document_ids: PyReadonlyArray2<'_, u64>,
        mask: Option<PyReadonlyArray2<'_, bool>>,
        context: Option<u64>,
    ) -> PyResult<()> {
        let activities = entries.iter().map(|(rows, offsets, latents, activations)| {
            Ok(Activity::Sparse {
                rows: contiguous("rows", rows.as_slice())?,
                offsets: contiguous("offsets", offsets.as_slice())?,
                latents: contiguous("latents", latents.as_slice())?,
                activations: activations.values()?,
            })
        });
        let activities = activities.collect::<PyResult<Vec<_>>>()?;
        self.add_batch(
            py,
            &tokens,
            &document_ids,
            mask.as_ref(),
            &activities,
            context,
        )
    }

    /// Add contexts whose entries are ordered by latent and, within one, by position.
    ///
    /// One tuple of starts, positions and activations per hookpoint.
    #[pyo3(signature = (
        tokens: "NDArray[np.uint32]", entries: "list[tuple[Any, ...]]",
        document_ids: "NDArray[np.uint64]", mask: "NDArray[np.bool_] | None",
        context: "int | None"
    ) -> "None")]
    fn add_sorted(
        &mut self,
        py: Python<'_>,
        tokens: PyReadonlyArray2<'_, u32>,
        entries: Vec<Sorted<'_>>,
        document_ids: PyReadonlyArray2<'_, u64>,
        mask: Option<PyReadonlyArray2<'_, bool>>,
        context: Option<u64>,
    ) -> PyResult<()> {
        let activities = entries.iter().map(|(starts, positions, activations)| {
            Ok(Activity::Sorted {
                starts: contiguous("starts", starts.as_slice())?,
                positions: contiguous("positions", positions.as_slice())?,
                activations: activations.values()?,
            })
        });
        let activities = activities.collect::<PyResult<Vec<_>>>()?;
        self.add_batch(
            py,
            &tokens,
            &document_ids,
            mask.as_ref(),
            &activities,
            context,
        )
    }

    /// Commit what is left, mark the index complete, and let go of the folder.
    #[pyo3(signature = () -> "None")]
    fn finish(&mut self, py: Python<'_>) -> CoreResult<()> {
        let writer = &mut self.0;
        py.detach(|| writer.finish()).map_err(CoreError::from)
    }

    /// Drop what is still in memory, and let go of the folder.
    #[pyo3(signature = () -> "None")]
    fn abandon(&mut self) {
        self.0.abandon();
    }
}

impl IndexWriter {
    fn add_batch(
        &mut self,
        py: Python<'_>,
        tokens: &PyReadonlyArray2<'_, u32>,
        document_ids: &PyReadonlyArray2<'_, u64>,
        mask: Option<&PyReadonlyArray2<'_, bool>>,
        activities: &[Activity<'_>],
        context: Option<u64>,
    ) -> PyResult<()> {
        let length = self.0.parameters().context_length as usize;
        if tokens.shape()[1] != length {
            return Err(InputError::new_err(format!(
                "`tokens` has {} tokens per context; the index has {length}",
                tokens.shape()[1]
            )));
        }
        let mask = mask.map(|mask| contiguous("mask", mask.as_slice()));
        let batch = Batch {
            tokens: contiguous("tokens", tokens.as_slice())?,
            documents: contiguous("document_ids", document_ids.as_slice())?,
            mask: mask.transpose()?,
            activities,
        };
        let writer = &mut self.0;
        py.detach(|| writer.add(&batch, context))
            .map_err(|error| CoreError::from(error).into())
    }
}

/// Join finished indices whose contexts follow one another into a new one, without writing their
/// data again.
#[pyfunction]
#[pyo3(signature = (parts: "list[str]", out: "str", durable: "bool") -> "None")]
pub fn join(py: Python<'_>, parts: Vec<PathBuf>, out: PathBuf, durable: bool) -> CoreResult<()> {
    py.detach(|| glossator_core::join(&parts, &out, Options { durable }))
        .map_err(CoreError::from)
}

/// Merge the adjacent partial segments of an index up to the grid of its segments.
#[pyfunction]
#[pyo3(signature = (path: "str", durable: "bool") -> "None")]
pub fn compact(py: Python<'_>, path: PathBuf, durable: bool) -> CoreResult<()> {
    py.detach(|| glossator_core::compact(&path, Options { durable }))
        .map_err(CoreError::from)
}
