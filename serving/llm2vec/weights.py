"""One set of weights in memory: a causal language model that reads texts into vectors and writes the next token.

Needs torch, transformers and sentence-transformers, with peft for adapters and bitsandbytes for four bits; all of them
are imported when weights are opened. Nothing of a model is shared between its runs but the weights, so a vector can be
made by one thread while another writes an answer.
"""

import os
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from serving.backend import ModelInfo, RunLimits, is_batchable
from serving.errors import LLMRuntimeError, ModelRefused
from serving.llm2vec.grammar import Grammars
from serving.llm2vec.manifest import Manifest, artifact
from serving.llm2vec.plan import Hardware, LoadPlan, plan_load
from serving.llm2vec.settings import ModelSettings
from serving.llm2vec.writing import Logits
from serving.pooling import Vectors
from serving.tokens import Split, Splitter, Text, TokenIds

_TEXTS_PER_RUN = 32
_TOKENS_PER_RUN, _PADDING = {"cpu": 512, "cuda": 16_384}, {"cpu": 8, "cuda": 32}

FAILURES = (RuntimeError, ValueError, KeyError, TypeError, IndexError, AttributeError, MemoryError)
"""What a model's code raises when it fails on an input, or for want of memory."""


def make_plan(folder: Path, manifest: Manifest, settings: ModelSettings) -> LoadPlan:
    """The plan for this machine. Raises ModelRefused, also where torch is missing."""
    try:
        torch: Any = import_module("torch")
        for name in ("transformers", "sentence_transformers"):
            import_module(name)
    except ImportError as error:
        raise ModelRefused(
            f"the unified runtime needs {error.name}, which is not installed: run `make train-deps`."
        ) from None
    has_cuda = bool(torch.cuda.is_available())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    hardware = Hardware(has_cuda, has_cuda and bool(torch.cuda.is_bf16_supported()), memory)
    source = artifact(folder, manifest, "merged") or Path(manifest.base_model)
    return plan_load(manifest, settings, hardware, sum(file.stat().st_size for file in source.glob("*.safetensors")))


class Weights:
    """A loaded checkpoint. Every method may be called by several threads at a time."""

    def __init__(self, folder: Path, manifest: Manifest, plan: LoadPlan, threads: int) -> None:
        """Load. Raises ModelRefused in one line."""
        self._torch: Any = import_module("torch")
        self._threads = threads
        self._is_causal = manifest.embedding.attention == "causal"
        self._device = plan.device
        self.tokenizer: Any = self._load_tokenizer(folder, manifest)
        self._model: Any = self._load_model(folder, manifest, plan)
        modules: Any = import_module("sentence_transformers.sentence_transformer.modules")
        self._pooling: Any = modules.Pooling(manifest.embedding.dimension, manifest.embedding.pooling)
        config: Any = self._model.config.get_text_config()
        self.context: int = getattr(config, "max_position_embeddings", None) or 2**31
        """Most tokens of a conversation, its answer included."""
        ends: Any = self._model.generation_config.eos_token_id
        self.ends: set[int] = {*(ends if isinstance(ends, list) else [ends]), self.tokenizer.eos_token_id} - {None}
        """Tokens that end an answer."""
        self.grammars = Grammars(self.tokenizer.backend_tokenizer, self.ends)
        length = min(manifest.embedding.max_length, self.context)
        self._splitter = Splitter(self.tokenizer.backend_tokenizer, length)
        self.info, self.limits = self._described(folder, manifest, plan, length)

    def split(self, text: Text) -> Split:
        """The tokens of a text."""
        return self._splitter.split(text)

    def run(self, texts: Sequence[TokenIds]) -> Vectors:
        """One run: shape (texts, dimension), as pooled; zeros for a text without tokens. Raises LLMRuntimeError."""
        torch = self._torch
        lengths = np.array([len(ids) for ids in texts])
        ids = np.full((len(texts), max(1, int(lengths.max()))), self._splitter.pad_id, np.int64)
        for row, own in enumerate(texts):
            ids[row, : len(own)] = own[:, 0]
        is_own = torch.from_numpy(np.arange(ids.shape[1]) < lengths[:, np.newaxis]).to(self._device)
        # Padding is on the right, where no token looks while attention is causal; else every token sees those of its
        # own text. A mask of four axes is taken as it is, whatever the model's configuration says.
        mask = None
        if not self._is_causal:
            seen = is_own.clone()
            seen[:, 0] = True  # an empty text has to look somewhere
            mask = seen[:, None, None, :].expand(-1, 1, ids.shape[1], -1)
        torch.set_num_threads(self._threads)  # holds for the thread that sets it
        try:
            with torch.inference_mode():
                tokens = torch.from_numpy(ids).to(self._device)
                hidden = self._model.base_model(
                    input_ids=tokens, attention_mask=mask, use_cache=False
                ).last_hidden_state
                features = {"token_embeddings": hidden.float(), "attention_mask": is_own.long()}
                vectors = self._pooling(features)["sentence_embedding"].cpu().numpy()
        except FAILURES as error:
            raise LLMRuntimeError(f"the model failed on these texts ({type(error).__name__})") from error
        if not np.isfinite(vectors).all():
            raise LLMRuntimeError("the model answered with something else than finite numbers for each text")
        return vectors

    def step(self, tokens: Sequence[int], cache: Any) -> tuple[Logits, Any]:
        """Read `tokens` after those in `cache` (None: nothing yet): what may follow, as logits of shape
        (vocabulary,), and the cache with the tokens. A cache belongs to one answer. Raises LLMRuntimeError."""
        torch = self._torch
        torch.set_num_threads(self._threads)
        try:
            with torch.inference_mode():
                ids = torch.tensor([tokens], device=self._device)
                found = self._model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
                return found.logits[0, -1].float().cpu().numpy(), found.past_key_values
        except FAILURES as error:
            raise LLMRuntimeError(f"the model failed on this conversation ({type(error).__name__})") from error

    def close(self) -> None:
        """Free the weights, as soon as no run uses them."""
        self._model = None

    def _load_tokenizer(self, folder: Path, manifest: Manifest) -> Any:
        path = artifact(folder, manifest, "tokenizer")
        try:
            found: Any = import_module("transformers").AutoTokenizer.from_pretrained(str(path), local_files_only=True)
        except Exception as error:  # noqa: BLE001 - whatever a library raises on a file
            raise ModelRefused(f"the tokenizer in {path} cannot be loaded: {_first_line(error)}") from None
        if getattr(found, "backend_tokenizer", None) is None:
            raise ModelRefused(f"{path} holds no tokenizer.json, which is the kind of tokenizer that is read here.")
        return found

    def _load_model(self, folder: Path, manifest: Manifest, plan: LoadPlan) -> Any:
        """The model as transformers gives it, adapters in place, ready to run."""
        merged = artifact(folder, manifest, "merged") if plan.source == "merged" else None
        source = str(merged or manifest.base_model)
        transformers: Any = import_module("transformers")
        transformers.utils.logging.disable_progress_bar()
        try:
            config = transformers.AutoConfig.from_pretrained(source, local_files_only=True)
            config.is_causal = True  # of a snapshot that embeds bidirectionally it may be otherwise, and chat is causal
            model, report = transformers.AutoModelForCausalLM.from_pretrained(
                source,
                config=config,
                attn_implementation="sdpa",
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                **self._options(plan),
            )
        except Exception as error:  # noqa: BLE001 - whatever a library raises on a file
            raise ModelRefused(f"the weights in {source} cannot be loaded: {_first_line(error)}") from None
        if lost := sorted(report["missing_keys"]):
            raise ModelRefused(f"the weights in {source} are not whole: {len(lost)} are missing, first {lost[0]}.")
        width = model.config.get_text_config().hidden_size
        if width != manifest.embedding.dimension:
            stated = manifest.embedding.dimension
            raise ModelRefused(f"{source} makes vectors of {width} numbers; embedding.dimension says {stated}.")
        if plan.source == "adapters":
            model = self._adapted(model, artifact(folder, manifest, "adapters"), is_merging=plan.quantization is None)
        return model.eval()

    def _options(self, plan: LoadPlan) -> dict[str, Any]:
        """The part of the plan that transformers carries out."""
        options: dict[str, Any] = {"dtype": getattr(self._torch, plan.dtype)}
        if plan.device != "cpu":
            options["device_map"] = {"": plan.device}
        if (wanted := plan.quantization) is not None:
            options["quantization_config"] = import_module("transformers").BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type=wanted.bnb_4bit_quant_type,
                bnb_4bit_compute_dtype=getattr(self._torch, wanted.bnb_4bit_compute_dtype),
                bnb_4bit_use_double_quant=wanted.bnb_4bit_use_double_quant,
            )
        return options

    @staticmethod
    def _adapted(model: Any, adapters: Path | None, *, is_merging: bool) -> Any:
        """The model with its adapters, added to the weights where those have all their bits."""
        try:
            peft: Any = import_module("peft")
            with warnings.catch_warnings():
                warnings.filterwarnings("error", message=".*missing adapter keys")
                adapted = peft.PeftModel.from_pretrained(model, str(adapters), local_files_only=True)
            return adapted.merge_and_unload() if is_merging else adapted.get_base_model()
        except Exception as error:  # noqa: BLE001 - whatever a library raises on a file
            raise ModelRefused(f"the adapters in {adapters} cannot be loaded: {_first_line(error)}") from None

    def _described(
        self, folder: Path, manifest: Manifest, plan: LoadPlan, max_tokens: int
    ) -> tuple[ModelInfo, RunLimits]:
        """What was loaded, tried out. Raises ModelRefused where it does not run."""
        try:
            can_share = is_batchable("embedding", self.split, self.run)
        except LLMRuntimeError as error:
            raise ModelRefused(f"{folder} does not run: {error}.") from None
        prompt = manifest.embedding.prompt
        info = ModelInfo(
            name=folder.resolve().name,
            backend=manifest.backend,
            kind="embedding",
            dimension=manifest.embedding.dimension,
            max_tokens=max_tokens,
            device=plan.device,
            precision=plan.precision,
            pooling=manifest.embedding.pooling,
            is_normalised=False,
            is_batchable=can_share,
            prompts={"embedding": prompt} if prompt else {},
            default_prompt_name="embedding" if prompt else None,
        )
        family = plan.device.partition(":")[0]
        limits = RunLimits(_TEXTS_PER_RUN if can_share else 1, _TOKENS_PER_RUN[family], _PADDING[family], _width)
        return info, limits


def _width(length: int) -> int:
    """Tokens a row has: one even for a text without any."""
    return max(1, length)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
