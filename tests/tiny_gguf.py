"""A GGUF file of a tiny Llama with a byte-level tokenizer and a chat template, as llama.cpp writes one."""

from pathlib import Path

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HEADS, LAYERS, WIDTH = 4, 2, 64


def tiny_gguf(file: Path, seed: int = 0, layers: int = LAYERS):
    """Write the file and return the transformers model that it holds; `layers` is what its header claims."""
    import gguf
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *letters, "ab"]
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokens),
            hidden_size=WIDTH,
            intermediate_size=64,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=2,
            max_position_embeddings=128,
            tie_word_embeddings=True,
        )
    ).eval()
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_name("tiny")
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(64)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(2)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(model.config.rms_norm_eps)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3, *[1] * (len(tokens) - 3)])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template(TEMPLATE)
    for name, tensor in _named(model):
        quantised = gguf.GGMLQuantizationType.Q8_0 if "ffn_up" in name else None
        if quantised is None:
            writer.add_tensor(name, tensor.detach().float().numpy())
        else:  # the model is given what the file then holds
            packed = gguf.quants.quantize(tensor.detach().numpy(), quantised)
            tensor.data.copy_(torch.from_numpy(gguf.quants.dequantize(packed, quantised)))
            writer.add_tensor(name, packed, raw_dtype=quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def _named(model):
    """(name in GGUF, tensor) of every weight; llama.cpp orders the rows of queries and keys by pairs."""
    yield "token_embd.weight", model.model.embed_tokens.weight
    yield "output_norm.weight", model.model.norm.weight
    for at, layer in enumerate(model.model.layers):
        attention, mlp = layer.self_attn, layer.mlp
        rows = {"attn_q": (attention.q_proj, HEADS), "attn_k": (attention.k_proj, 2)}
        for name, (module, heads) in rows.items():
            halves = module.weight.view(heads, 2, -1, WIDTH).transpose(1, 2)
            yield f"blk.{at}.{name}.weight", halves.reshape(module.weight.shape).contiguous()
        for name, module in {
            "attn_v": attention.v_proj,
            "attn_output": attention.o_proj,
            "ffn_gate": mlp.gate_proj,
            "ffn_up": mlp.up_proj,
            "ffn_down": mlp.down_proj,
            "attn_norm": layer.input_layernorm,
            "ffn_norm": layer.post_attention_layernorm,
        }.items():
            yield f"blk.{at}.{name}.weight", module.weight
