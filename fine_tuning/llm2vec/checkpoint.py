"""The checkpoint itself: loaded to embed, with an adapter on it, merged, and saved so that everybody finds what it is.

An adapter's file names the layers of the whole model that talks (`model.layers...`); the part that embeds, which
sentence-transformers trains, is that model without its head (`layers...`). The same weights, a shorter name.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from fine_tuning.embedding.errors import FineTuningError, first_line
from fine_tuning.llm2vec.options import Options
from serving.llm2vec.manifest import Artifacts, Embedding, Manifest, Quantization

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
LORA_MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
"""Every attention and feed-forward layer, as the training script has it."""

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"

_AS_PLAIN_TEXT: dict[str, Any] = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
"""Without it sentence-transformers puts every text into the chat template."""

_PREFIX = "base_model.model.model."


def base_folder(name: str) -> Path | str:
    """What libraries load the base model by. Raises FineTuningError where it is none that talks."""
    folder = Path(name)
    is_folder = folder.exists() or name.startswith((".", "/", "~")) or name.count("/") != 1
    if is_folder and not (folder / "config.json").is_file():
        raise FineTuningError(f"there is no model in {name}: give a folder with config.json, or a hub's OWNER/MODEL.")
    source: Path | str = folder.resolve() if is_folder else name
    try:
        config = AutoConfig.from_pretrained(source)
        AutoTokenizer.from_pretrained(source)
    except Exception as error:  # noqa: BLE001 - whatever a model's own code raises
        raise FineTuningError(f"{name} cannot be loaded: {first_line(error)}") from None
    if not any(each.endswith("ForCausalLM") for each in config.architectures or ()):
        raise FineTuningError(
            f"{name} does not write ({', '.join(config.architectures or ['unknown'])}): take a chat model."
        )
    return source


def load_tokenizer(source: Path | str) -> Any:
    """The tokenizer as it is exported: padding on the right, so that a text begins at position 0 in any batch."""
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.padding_side = "right"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer


def load_to_embed(source: Path | str, options: Options) -> SentenceTransformer:
    """The part that embeds, of a base or a merged model: on CUDA in bfloat16, or 4 bits where the options say so, on
    the CPU in float32. Raises FineTuningError."""
    half = torch.bfloat16 if ON_GPU and torch.cuda.is_bf16_supported() else torch.float16
    loading: dict[str, Any] = {"dtype": half if ON_GPU else torch.float32}
    if ON_GPU and options.load_in_4bit:
        loading |= {"quantization_config": quantization(half), "device_map": DEVICE}
    try:
        transformer = Transformer(
            str(source),
            model_kwargs=loading,
            modality_config=_AS_PLAIN_TEXT,
            module_output_name="token_embeddings",
            max_seq_length=options.max_length,
        )
    except Exception as error:  # noqa: BLE001 - whatever a model's own code raises
        raise FineTuningError(f"{source} cannot be loaded: {first_line(error)}") from None
    transformer.processor.padding_side = "right"
    transformer.processor.pad_token = transformer.processor.pad_token or transformer.processor.eos_token
    prompts = {"default": options.prompt} if options.prompt else None
    model = SentenceTransformer(
        modules=[transformer, Pooling(transformer.get_embedding_dimension(), "mean")],
        device=DEVICE,
        prompts=prompts,
        default_prompt_name="default" if prompts else None,
    )
    return model.eval()


def open_merged(folder: Path) -> SentenceTransformer:
    """A merged model as consumers open it: in float32 on the CPU, in bfloat16 on CUDA."""
    loading: dict[str, Any] | None = {"dtype": torch.bfloat16} if ON_GPU else None
    return SentenceTransformer(str(folder), device=DEVICE, model_kwargs=loading, local_files_only=True).eval()


def quantization(half: torch.dtype) -> BitsAndBytesConfig:
    """4 bits as QLoRA (Dettmers et al. 2023) has them: NF4, the scales quantized again."""
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=half, bnb_4bit_use_double_quant=True
    )


def add_adapter(model: SentenceTransformer, adapter: Path | None, rank: int) -> None:
    """Put an adapter on the model to go on training: the one in a folder, or a new one that changes nothing yet."""
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=LORA_MODULES)
    if adapter is not None:
        config = LoraConfig.from_pretrained(str(adapter))
        config.inference_mode = False
    config.task_type = "FEATURE_EXTRACTION"
    model.add_adapter(config)
    if adapter is not None:
        put_adapter_weights(model, adapter)


def put_adapter_weights(model: SentenceTransformer, adapter: Path) -> None:
    """Have the model's adapter be that of a folder. Raises FineTuningError where it belongs to another model."""
    try:
        weights = {_short(name): weight for name, weight in load_file(adapter / "adapter_model.safetensors").items()}
        found = set_peft_model_state_dict(model.transformers_model, weights)
    except Exception as error:  # noqa: BLE001 - whatever the libraries raise for files that are not whole
        raise FineTuningError(f"{adapter} cannot be put on this base model: {first_line(error)}") from None
    if found.unexpected_keys:
        raise FineTuningError(f"{adapter} is of another model: there is no {min(found.unexpected_keys)} here.")


def save_adapter(model: SentenceTransformer, folder: Path, base_model: str) -> None:
    """Keep the model's adapter as one of the whole model that talks."""
    inner = model.transformers_model
    config = inner.peft_config["default"]
    config.task_type, config.base_model_name_or_path, config.inference_mode = "CAUSAL_LM", base_model, True
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(folder))
    weights = get_peft_model_state_dict(inner)
    named = {_PREFIX + name: weight.detach().float().cpu().contiguous() for name, weight in weights.items()}
    save_file(named, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def copy_adapter(source: Path, folder: Path, base_model: str) -> None:
    """Keep an adapter of the whole model, naming the base model as the manifest does. Raises FineTuningError."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ADAPTER_FILES:
        if not (source / name).is_file():
            raise FineTuningError(f"{source} holds no adapter: {name} is missing.")
        shutil.copyfile(source / name, folder / name)
    _change(folder / ADAPTER_FILES[0], {"base_model_name_or_path": base_model})


def save_merged(base: Path | str, adapter: Path, folder: Path, options: Options) -> int:
    """Write the base with the adapter worked into its weights, in 16 bits, so that transformers, vLLM and the
    converter find a model that talks, and sentence-transformers and the model server one that embeds; the length of
    its vectors. Raises FineTuningError.

    The weights are kept in float16, whose 11 bits hold all 8 of a bfloat16 base and eight times as much of what the
    adapter adds; `config.json` goes on to name the base's own type, in which it is to be computed.
    """
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float16)
    computed_in = AutoConfig.from_pretrained(base).dtype
    try:
        model = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    except Exception as error:  # noqa: BLE001 - whatever the libraries raise for files that are not whole
        raise FineTuningError(f"{adapter} cannot be merged: {first_line(error)}") from None
    beyond = [name for name, weight in model.named_parameters() if not torch.isfinite(weight).all()]
    if beyond:
        raise FineTuningError(f"{beyond[0]} has weights beyond 65504, which float16 does not hold: take another base.")
    model.save_pretrained(folder)
    load_tokenizer(base).save_pretrained(folder)
    dimension = int(model.config.hidden_size)
    half = "float16" if computed_in == torch.float16 else "bfloat16"
    _change(folder / "config.json", {"dtype": half})
    _describe_for_sentence_transformers(folder, dimension, options)
    for file in folder.rglob("*"):  # weights are written for their owner only, where a server may be somebody else
        if file.is_file():
            file.chmod(0o644)
    return dimension


def manifest_of(options: Options, base: Path | str, dimension: int) -> Manifest:
    """What the training knows of the checkpoint."""
    return Manifest(
        base_model=str(base),
        embedding=Embedding(
            dimension=dimension,
            max_length=options.max_length,
            normalise=options.normalise,
            attention="causal",
            prompt=options.prompt,
        ),
        artifacts=Artifacts(adapters="adapters", merged="merged"),
        quantization=Quantization(load_in_4bit=ON_GPU and options.load_in_4bit),
    )


def _describe_for_sentence_transformers(folder: Path, dimension: int, options: Options) -> None:
    """What sentence-transformers writes beside weights. The vectors are not of unit length: whoever asks decides."""
    modules = [
        ("", "sentence_transformers.base.modules.transformer.Transformer"),
        ("1_Pooling", "sentence_transformers.sentence_transformer.modules.pooling.Pooling"),
    ]
    listed = [{"idx": n, "name": str(n), "path": path, "type": kind} for n, (path, kind) in enumerate(modules)]
    transformer = {
        "transformer_task": "feature-extraction",
        "modality_config": _AS_PLAIN_TEXT,
        "module_output_name": "token_embeddings",
        "max_seq_length": options.max_length,
        "model_kwargs": {"dtype": "float32"},  # in 16 bits a text's vector depends on its neighbours on the CPU
    }
    prompts = {"default": options.prompt} if options.prompt else {}
    sentence = {"prompts": prompts, "default_prompt_name": next(iter(prompts), None), "similarity_fn_name": "cosine"}
    pooling = {"embedding_dimension": dimension, "pooling_mode": "mean", "include_prompt": True}
    (folder / "1_Pooling").mkdir(exist_ok=True)
    for name, document in {
        "modules.json": listed,
        "sentence_bert_config.json": transformer,
        "config_sentence_transformers.json": sentence,
        "1_Pooling/config.json": pooling,
    }.items():
        (folder / name).write_text(json.dumps(document, indent=2) + "\n", "utf8")


def _change(file: Path, values: dict[str, Any]) -> None:
    """Set keys of a JSON document."""
    document: dict[str, Any] = json.loads(file.read_text("utf8")) | values
    file.write_text(json.dumps(document, indent=2) + "\n", "utf8")


def _short(name: str) -> str:
    return name.removeprefix("base_model.model.").removeprefix("model.")
