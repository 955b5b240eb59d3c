"""Folding an adapter into the base and taking it out again (level 4 of the fine-tuning exercise)."""

from course_lib.scratch.lora import LoRAModel


class LoRAMerger:
    """Folds the change into the weights, W + (alpha / rank) B A, and takes it out again.

    A merged model runs at the base's speed. Subtracting the change again would leave W off by rounding, so the original
    is kept and put back, bit for bit.
    """

    def merge(self, lora_model: LoRAModel) -> None:
        """Fold every layer's change into its weight.

        Raises:
            ValueError: the model has no LoRA layers, or one of them is merged already.
        """
        layers = self._layers(lora_model)
        if any(layer.merged for layer in layers):
            raise ValueError("This model is merged already: merging twice would add the change twice.")
        for layer in layers:
            layer.unmerged, layer.weight.data = layer.weight.data, layer.merged_weight()
            layer.merged = True

    def unmerge(self, lora_model: LoRAModel) -> None:
        """Put the original weights back.

        Raises:
            ValueError: the model has no LoRA layers, or one of them is not merged.
        """
        layers = self._layers(lora_model)
        if not all(layer.merged for layer in layers):
            raise ValueError("This model is not merged: there is nothing to take out.")
        for layer in layers:
            layer.weight.data, layer.merged = layer.unmerged, False
            del layer.unmerged

    def _layers(self, lora_model: LoRAModel) -> list:
        if not isinstance(lora_model, LoRAModel) or not lora_model.layers:
            raise ValueError("This model has no LoRA layers: call inject_lora first.")
        return list(lora_model.layers.values())
