//! What to draw of each latent.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::index::Index;

/// How the explain-side windows are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExplainKind {
    /// `n` of all, each equally likely.
    Uniform,
    /// The `n` strongest of the side.
    Top,
    /// `n` of the side's `pool` strongest.
    TopOf,
    /// `n / 10` of each decile of the whole index; what is left over, one each of the strongest
    /// deciles.
    Deciles,
    /// `n_top` of the side's `pool` strongest, and `n - n_top` of all others.
    Mixture,
}

/// What an explainer reads of each latent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainPlan {
    /// How they are chosen.
    pub kind: ExplainKind,
    /// How many windows.
    pub n: usize,
    /// From how many of the strongest, for `top_of` and `mixture`.
    pub pool: usize,
    /// How many from the strongest, for `mixture`.
    pub n_top: usize,
}

/// Which windows without an activation are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NegativeKind {
    /// Any, each equally likely.
    Random,
}

impl NegativeKind {
    /// The code in [`Examples::kind`](crate::Examples::kind).
    pub(super) fn code(self) -> u8 {
        match self {
            Self::Random => 1,
        }
    }

    /// The name in [`Shortfall::what`].
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
        }
    }
}

/// One list of non-activating windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NegativePlan {
    /// Which windows.
    pub kind: NegativeKind,
    /// How many.
    pub n: usize,
    /// Tokens on either side of what is shown, within the context, on which the latent must be
    /// silent too.
    pub margin: usize,
}

/// What to draw of each latent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Explain side.
    pub explain: ExplainPlan,
    /// Score-side windows of each decile.
    pub per_decile: usize,
    /// Score-side windows of each of `bins` bins, none of them drawn for a decile already.
    pub per_bin: usize,
    /// Bins of equal width, between 0 and the latent's largest activation, of the windows' maxima.
    pub bins: usize,
    /// Score-side windows in which the latent is silent; no window is in two of the lists.
    pub negatives: Vec<NegativePlan>,
    /// Tokens shown of each; the window if none.
    pub length: Option<usize>,
    /// Whether the peak stands in the middle of what is shown, rather than the middle of the window.
    pub centred: bool,
}

/// A plan that a latent could not fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortfall {
    /// Which latent.
    pub latent: u32,
    /// `explain`, `score`, `bins`, or the kind of negatives.
    pub what: &'static str,
    /// Windows that the plan asks for.
    pub wanted: usize,
    /// Windows that there are.
    pub found: usize,
}

impl Plan {
    /// Refuses what cannot be drawn.
    pub(super) fn check(&self, index: &Index) -> Result<()> {
        let explain = &self.explain;
        if explain.kind == ExplainKind::Mixture && explain.n_top > explain.n {
            return Err(Error::input(format!(
                "`explain.n_top` is {} of `explain.n` {} windows",
                explain.n_top, explain.n
            )));
        }
        if self.bins == 0 && self.per_bin > 0 {
            return Err(Error::input("`bins` is 0; it must be at least 1"));
        }
        if let Some(length) = self.length
            && !(1..=index.context_length()).contains(&length)
        {
            return Err(Error::input(format!(
                "`length` is {length}; it must be from 1 to the context's {} tokens",
                index.context_length()
            )));
        }
        Ok(())
    }

    /// Whether anything of the score side is drawn.
    pub(super) fn scores(&self) -> bool {
        self.per_decile > 0 || self.per_bin > 0 || self.negatives.iter().any(|list| list.n > 0)
    }
}
