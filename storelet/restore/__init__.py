"""The way back: what is in an archive, by whoever made it, and out of it again.

listing     an archive's catalogue read, as members
salvage     members of one whose catalogue is not to be had, from their local headers
content     the bytes of a member, inflated and checked
paths       where a member belongs in a tree, or why nowhere
target      the tree that is written: never outside it, never half a file
survey      what is wanted, and what stands against it, before anything is written
reading     spans of an archive fetched ahead
unpacking   small members out of a span, here or in a helper; `unpacker` is that helper
extraction  all of it, in order: directories, files, links
opened      `OpenedArchive`, the API of it
places      what a URL means
"""
