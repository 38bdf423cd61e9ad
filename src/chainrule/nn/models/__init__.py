"""Whole networks by name, with the numbers of parameters of the papers they come from."""

from chainrule.nn.models.autoencoder import VAE as VAE
from chainrule.nn.models.autoencoder import Autoencoder as Autoencoder
from chainrule.nn.models.autoencoder import Encoding as Encoding
from chainrule.nn.models.autoencoder import negative_elbo as negative_elbo
from chainrule.nn.models.bert import BERT as BERT
from chainrule.nn.models.bert import TransformerClassifier as TransformerClassifier
from chainrule.nn.models.bert import bert_base as bert_base
from chainrule.nn.models.dcgan import DCGANDiscriminator as DCGANDiscriminator
from chainrule.nn.models.dcgan import DCGANGenerator as DCGANGenerator
from chainrule.nn.models.generation import choose as choose
from chainrule.nn.models.generation import largest as largest
from chainrule.nn.models.gpt import GPT as GPT
from chainrule.nn.models.gpt import gpt2_small as gpt2_small
from chainrule.nn.models.lenet import LeNet as LeNet
from chainrule.nn.models.mlp import MLP as MLP
from chainrule.nn.models.recurrent import RecurrentClassifier as RecurrentClassifier
from chainrule.nn.models.recurrent import RecurrentLanguageModel as RecurrentLanguageModel
from chainrule.nn.models.resnet import ResNet as ResNet
from chainrule.nn.models.resnet import resnet18 as resnet18
from chainrule.nn.models.resnet import resnet20 as resnet20
from chainrule.nn.models.resnet import resnet32 as resnet32
from chainrule.nn.models.resnet import resnet34 as resnet34
from chainrule.nn.models.resnet import resnet50 as resnet50
from chainrule.nn.models.resnet import resnet56 as resnet56
from chainrule.nn.models.seq2seq import Seq2SeqTransformer as Seq2SeqTransformer
