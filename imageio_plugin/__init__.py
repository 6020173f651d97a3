"""imageio v3 plugin for ``.sgc``.

Registered by ``imageio_plugin.register()``::

    import imageio.v3 as iio
    import imageio_plugin

    imageio_plugin.register()
    iio.imwrite("photo.sgc", picture, quality=80)
"""

from __future__ import annotations

__all__ = ["register"]


def register() -> None:
    """Tell imageio of the plugin ``"sgc"`` and of the extension ``.sgc``; may be called again.

    Raises:
        ImportError: imageio is not installed.
    """
    try:
        from imageio.config.extensions import FileExtension, known_extensions
        from imageio.config.plugins import PluginConfig, known_plugins
    except ImportError as error:
        raise ImportError('the plugin needs: pip install "pillow-semicodec[imageio]"') from error

    # Where nothing names a format, imageio's Pillow plugin comes first: with this import it knows SGC files.
    import pillow_semicodec  # noqa: F401

    known_plugins["sgc"] = PluginConfig(
        name="sgc", class_name="SemicodecPlugin", module_name="imageio_plugin.plugin", install_name="pillow-semicodec"
    )
    known_extensions[".sgc"] = [FileExtension(name="Semicodec learned image", extension=".sgc", priority=["sgc", "pillow"])]
