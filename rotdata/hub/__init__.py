"""Folders of shards on the Hugging Face Hub: publish one as a dataset, fetch one back, read one where it is.

A dataset holds CONFIG/SPLIT/ for each folder pushed to it, a picture of a strip for each CONFIG, and one card. Shards
go first and the manifest last, so a folder with a manifest is whole. What comes from the Hub is pinned to a commit and
trusted in nothing: names, sizes and contents are checked against the manifest, and no other file is fetched.
"""

from rotdata.hub.client import HubError
from rotdata.hub.download import pull
from rotdata.hub.remote import HubFiles, locate
from rotdata.hub.upload import Pushed, config_name, make_model, push, push_model

__all__ = ["HubError", "HubFiles", "Pushed", "config_name", "locate", "make_model", "pull", "push", "push_model"]
